"""MobileNetV2 in onnxruntime, dense and with pruned pointwise convolutions: time of an image, and accuracy.

    python benchmarks/pointwise_onnx.py [--rounds 40] [--setting 0 1 2 3]

Needs ``SPECTRIM_DATA`` with imagenet-val-1300.npz, imagenet-sample-1000.npz (for the bands) and the weights of MobileNetV2. Norms are
folded everywhere. Nothing is trained. Each network is exported by the library, which measures every layer in onnxruntime first, and timed in a
process of its own, one thread, in turns; the accuracy is that of the very network that was exported.
"""

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rounds
import torch
from pointwise_mobilenetv2 import network
from realdata import imagenet
from torch import Tensor

import spectrim as st
from spectrim.measure import session_latency
from spectrim.measure.choice import WHOLE
from spectrim.training.exporting import export_onnx

CALIBRATION = 48
LAST = ["features.14.conv.2", "features.15.*", "features.16.*", "features.17.*", "features.18.*"]
"""The layers that read or write maps of 7 x 7 on their narrow side: the last two streams."""
SETTINGS = (
    {"keep": 0.35, "levels": 1, "where": LAST},
    {"keep": 0.35, "levels": 2, "where": LAST},
    {"keep": 0.5, "levels": 1, "where": LAST},
    {"keep": 0.25, "levels": 1, "where": LAST},
)
"""A layer multiplies up to its largest band, so one band for all channels may run faster here than two that fit them better."""


def prepared(images: Tensor) -> Tensor:
    """Bytes (N, 224, 224, 3) as the network wants them."""
    return (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


@torch.inference_mode()
def answers(model: torch.nn.Module, images: Tensor) -> Tensor:
    """The most likely class of each image."""
    return torch.cat([model(prepared(part)).argmax(1) for part in images.split(20)])


def main() -> None:
    chosen = rounds.options(__doc__.splitlines()[0], rounds=40, settings=len(SETTINGS))
    images, labels = imagenet("imagenet-val-1300.npz", crop=224)
    sample, _ = imagenet("imagenet-sample-1000.npz", crop=224)
    calibration = prepared(sample[:: max(1, len(sample) // CALIBRATION)][:CALIBRATION])
    dense = network()
    x = prepared(images[:1])
    right = answers(dense, images) == labels
    found: list[dict[str, Any]] = [{"name": "dense", "top1": 100 * right.double().mean().item()}]
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": Path(folder) / "dense.onnx"}
        export_onnx(copy.deepcopy(dense), x, files["dense"])
        for number in chosen.setting:
            setting = SETTINGS[number]
            started = time.perf_counter()
            model = copy.deepcopy(dense)
            method = st.PointwisePruning(keep=setting["keep"], score="output", tie="stage", levels=setting["levels"])
            plan = st.plan(model, method, where=setting["where"], calibration=calibration)
            plan.apply_(model)
            choices: list[Any] = []
            file = Path(folder) / f"{number}.onnx"
            difference = export_onnx(model, x, file, choices)
            hits = answers(model, images) == labels
            took = session_latency({"dense": files["dense"], "pruned": file}, [x.numpy()], rounds=chosen.rounds)
            row = {
                "name": f"{method!r}",
                "commit": rounds.COMMIT,
                "keep": setting["keep"],
                "levels": setting["levels"],
                "layers": "those of the last two streams" if setting["where"] else "all",
                "cut": len(plan.edits),
                "chosen": dict(Counter(choice.taken for choice in choices if choice.site != WHOLE)),
                "decisions": [
                    {"site": each.site, "chosen": each.taken, "ms": {k: round(v, 4) for k, v in each.ms.items()}}
                    for each in choices
                ],
                "difference_to_torch": difference,
                "top1": 100 * hits.double().mean().item(),
                "changed": {"worse": int((right & ~hits).sum()), "better": int((~right & hits).sum())},
                "times": took.to_json(),
                "time": took["pruned"].min_ms / took["dense"].min_ms,
                "seconds": round(time.perf_counter() - started),
            }
            found.append(row)
            print({name: value for name, value in row.items() if name != "decisions"}, flush=True)
            rounds.write(
                "pointwise_onnx",
                rounds.merged("pointwise_onnx", found),
                seed=chosen.seed,
                rounds=chosen.rounds,
                images=len(labels),
                calibration=CALIBRATION,
            )  # after each, as it takes long


def table(document: Mapping[str, Any]) -> str:
    """Accuracy against time."""
    dense = document["rows"][0]
    lines = [
        "| bands | layers | cut | chained | flat | dense again | dense, ms | pruned, ms | time | top-1, % | points | worse / better |",
        "| :-- | :-- |" + " --: |" * 10,
    ]
    for row in document["rows"][1:]:
        chosen, times = row["chosen"], row["times"]
        cells = [
            f"`keep={row['keep']}, levels={row['levels']}`", row["layers"], row["cut"], *(chosen.get(name, 0) for name in ("chained", "flat", "dense")),
            f"{times['dense']['min']:.2f}", f"{times['pruned']['min']:.2f}", f"{row['time']:.3f}", f"{row['top1']:.2f}",
            f"{row['top1'] - dense['top1']:+.2f}", f"{row['changed']['worse']} / {row['changed']['better']}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    hardware, versions = document["hardware"], document["versions"]
    commits = ", ".join(sorted({row["commit"] for row in document["rows"][1:]}))
    note = (
        f"{hardware['cpu']}, onnxruntime {versions['onnxruntime']}, commit {commits}; batch 1, one thread, one process each, minimum over "
        f"{document['rounds']} rounds in turns; dense top-1 {dense['top1']:.2f} % of {document['images']:,} validation images, bands from "
        f"{document['calibration']} others, nothing trained."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
