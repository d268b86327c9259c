"""MobileNetV2 on ImageNet images, its pointwise convolutions pruned without training: accuracy against measured time.

    python benchmarks/pointwise_mobilenetv2.py [--setting 0 1 2 ...]                          # plan, judge, keep the networks in runs/
    python benchmarks/pointwise_mobilenetv2.py --time [--batch 1] [--threads 1] [--rounds 20]  # those that are there

Needs ``SPECTRIM_DATA`` with imagenet-val-1300.npz, imagenet-sample-1000.npz (for the bands) and the weights of MobileNetV2.
All networks have their norms folded and run in channels_last. Targets of time are planned for one image on one thread, some for eight. In most rows the weights that
are left are then fitted in closed form, on the images that the bands come from. The validation images are looked at once, when a row is made.
"""

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pointwise_clock as clock
import rounds
import torch
from judging import compared, judgement
from realdata import imagenet, mobilenet_v2_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import spectrim as st
from spectrim import measure
from spectrim.kernels import build
from spectrim.measure.without_transforms import macs_without_transforms

NAME = "pointwise_mobilenetv2"
RUNS = Path(__file__).parent.parent / "runs" / NAME
CALIBRATION = 250
LEVELS = 64
"""The compiled products take any number of different bands."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {"target": "time:0.75"},
    {"target": "time:0.7"},
    {"target": "time:0.65"},
    {"target": "time:0.6"},
    {"target": "time:0.72"},
    {"target": "time:0.68"},
    {"keep": 0.7},
    {"keep": 0.6},
    {"keep": 0.5},
    {"target": "macs:0.8"},
    {"target": "time:0.7", "levels": 1},
    {"target": "time:0.7", "score": "output"},
    {"target": "time:0.7", "score": "energy"},
    {"target": "time:0.7", "calibration": 48},
    {"target": "time:0.7", "calibration": 1000},
    {"target": "time:0.65", "first": 8},
    {"target": "time:0.65", "first": 5},
    {"target": "time:0.5", "batch": 8},
    {"target": "time:0.47", "batch": 8},
)
"""Of the method; from how many images the bands come if not from :data:`CALIBRATION`; and the first block of which layers may be cut, if not all."""


class Same(nn.Conv2d):
    """Pads as TensorFlow does: the odd pixel to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any kernel; only stride 2 pads unevenly."""
        if self.stride == (1, 1):
            return F.conv2d(x, self.weight, self.bias, 1, self.kernel_size[0] // 2, 1, self.groups)
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, 1, self.groups)


def network() -> nn.Module:
    """The network with the published weights, norms folded into the convolutions."""
    import torchvision

    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(mobilenet_v2_weights())
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.__class__ = Same
    fold(model.eval())
    return model.requires_grad_(False)


def fold(module: nn.Module) -> None:
    """Fold every norm that follows a convolution in a sequence."""
    for (name, conv), (following, norm) in itertools.pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.set_submodule(name, fuse_conv_bn_eval(conv, norm))
            module.set_submodule(following, nn.Identity())
    for child in module.children():
        fold(child)


def prepared(images: Tensor) -> Tensor:
    """Bytes (N, 224, 224, 3) as the network wants them."""
    return (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """The most likely class of each image."""
    return torch.cat([model(prepared(part)).argmax(1) for part in images.split(20)])


def title(setting: Mapping[str, Any]) -> str:
    """What a row is called.

    >>> title({"target": "time:0.7", "levels": 1}), title({"target": "time:0.5", "batch": 8})
    ('time:0.7, one band', 'time:0.5, 8 at a time')
    """
    asked = setting.get("target") or f"keep {setting['keep']:g}"
    images = f", {setting['batch']} at a time" if "batch" in setting else ""
    images += f", {setting['calibration']} images" if "calibration" in setting else ""
    images += f", from block {setting['first']}" if "first" in setting else ""
    return f"{asked}{', one band' if setting.get('levels') == 1 else ''}{', ' + setting['score'] if 'score' in setting else ''}{images}"


def pruned(setting: Mapping[str, Any], dense: nn.Module, sample: Tensor) -> tuple[nn.Module, st.Plan, list[Tensor]]:
    """The network of a setting, how it was decided, and the images of that."""
    count = setting.get("calibration", CALIBRATION)
    seen = [*prepared(sample[:: max(1, len(sample) // count)][:count]).split(25)]
    asked = {name: value for name, value in setting.items() if name not in ("calibration", "first")}
    where = [f"features.{block}.*" for block in range(setting["first"], 19)] if "first" in setting else None
    pays = {} if "target" in setting else {"pays": "time"}
    model = copy.deepcopy(dense)
    plan = st.plan(model, st.PointwisePruning(**{"levels": LEVELS} | pays | asked), where=where, calibration=seen)
    return plan.apply_(model), plan, seen


def judged(
    setting: Mapping[str, Any], dense: nn.Module, images: Tensor, labels: Tensor, sample: Tensor
) -> dict[str, Any]:
    """The row of a setting; its network is kept."""
    started, x = time.perf_counter(), prepared(images[:1])
    before = answers(dense, images)
    model, plan, seen = pruned(setting, dense, sample)
    unrepaired = compared(answers(st.finalize_(copy.deepcopy(model)), images), before, labels)
    st.repair_(model, dense, plan=plan, calibration=seen)
    st.save(model, RUNS / f"{title(setting)}.safetensors", dtype=torch.float32)
    st.finalize_(model)
    return {
        "name": title(setting),
        **setting,
        "method": plan.method,
        "layers": len(plan.edits),
        "planned": None if plan.budget is None else plan.budget.fraction,
        "macs": measure.macs(model, x),
        "macs_without_transforms": macs_without_transforms(model, x),
        "unrepaired": unrepaired,
        **compared(answers(model, images), before, labels),
        "seconds": round(time.perf_counter() - started),
        "commit": rounds.COMMIT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", type=int, nargs="+", choices=range(len(SETTINGS)), default=range(len(SETTINGS)))
    parser.add_argument("--time", action="store_true", help="measure the networks that are there, instead")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    RUNS.mkdir(parents=True, exist_ok=True)
    assert build(), "this benchmark needs the compiled form"
    there = rounds.RESULTS / f"{NAME}.json"
    document = json.loads(there.read_text(encoding="utf-8")) if there.exists() else {"rows": [], "times": []}
    rows = {row["name"]: row for row in document["rows"]}
    times, sample = document["times"], imagenet("imagenet-sample-1000.npz", crop=224)[0]
    dense = network().to(memory_format=torch.channels_last)

    def write() -> None:
        whole = measure.macs(dense, torch.zeros(1, 3, 224, 224))
        rounds.write(
            NAME, [*rows.values()], seed=0, times=[*times], images=1300, calibration=CALIBRATION, dense_macs=whole,
            dense_top1=top1,
        )  # fmt: skip

    top1 = document.get("dense_top1")
    if chosen.time:
        x = prepared(sample[: chosen.batch])
        nets = {clock.DENSE: dense, clock.FUSED: clock.finalized(dense, x)}
        for name in rows:
            if (path := RUNS / f"{name}.safetensors").exists():
                nets[name] = clock.finalized(clock.network_of(path, network()), x)
        times = clock.replaced(times, clock.in_turns(nets, x, count=chosen.rounds))
        write()
        return
    images, labels = imagenet("imagenet-val-1300.npz", crop=224)
    top1 = 100 * (answers(dense, images) == labels).double().mean().item()
    for setting in (SETTINGS[number] for number in chosen.setting):
        rows[title(setting)] = judged(setting, dense, images, labels, sample)
        print(rows[title(setting)], flush=True)
        write()  # after each, as it takes long


def table(document: Mapping[str, Any]) -> str:
    """Accuracy against time."""
    times, total = clock.Clock(document["times"]), document["dense_macs"]
    heads = ["bands", "layers cut", "MACs without transforms", "MACs with", *(f"time, {each}" for each in times.heads), "top-1, %", "points (95 % interval)", "agreement, %", "points before the repair"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "| :-- |" + " --: |" * (len(heads) - 1)]
    for name in (clock.DENSE, clock.FUSED):
        cells = [name, "0", "1", "1", *times.cells(name), f"{document['dense_top1']:.2f}", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for row in document["rows"]:
        cells = [
            row["name"],
            str(row["layers"]),
            f"{row['macs_without_transforms'] / total:.3f}",
            f"{row['macs'] / total:.3f}",
            *times.cells(row["name"]),
            *judgement(row),
            f"{row['unrepaired']['points']:+.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    commits = ", ".join(sorted({row["commit"] for row in document["rows"]}))
    note = (
        f"{document['hardware']['cpu']}, torch {document['versions']['torch']}, accuracy at commit {commits}, times at {times.commits() or 'none'}; norms folded, channels_last; "
        f"{document['images']:,} validation images, bands and repair from {document['calibration']} others unless said, nothing trained; multiplications and times relative to the dense network, the times of the "
        'least of all rounds / the median over the rounds, in each of which all take their turn. `time:` is a target for one image on one thread, unless more at a time are said; `keep` with pays="time".'
    )
    return "\n".join(lines) + "\n\n" + note


def headline(document: Mapping[str, Any]) -> str:
    """The three fastest rows that lose at most a point, by the mean over the settings, beside the dense network in both forms."""
    times = clock.Clock(document["times"])

    def mean(name: str) -> float:
        return statistics.fmean(times.rows[name, *setting]["paired"] for setting in times.settings)

    timed = [row for row in document["rows"] if all((row["name"], *each) in times.rows for each in times.settings)]
    best = sorted((row for row in timed if row["points"] >= -1), key=lambda row: mean(row["name"]))[:3]
    heads = ["bands", *(f"time, {each}" for each in times.heads), "top-1, %", "points (95 % interval)"]
    lines = ["| " + " | ".join(heads) + " |", "| :-- |" + " --: |" * (len(heads) - 1)]
    cells = [[name, *times.cells(name), f"{document['dense_top1']:.2f}", ""] for name in (clock.DENSE, clock.FUSED)]
    cells += [[row["name"], *times.cells(row["name"]), *judgement(row)[:2]] for row in best]
    lines += ["| " + " | ".join(each) + " |" for each in cells]
    note = "Of all rows that lose at most a point the three fastest on average, which are chosen by these very images; times relative to dense, of the least of all rounds / the median over the rounds."
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
