"""MobileNetV2 on ImageNet images, its pointwise convolutions pruned without training: accuracy against measured time.

    python benchmarks/pointwise_mobilenetv2.py [--rounds 40] [--threads 1] [--setting 0 1 2 ...]

Needs ``SPECTRIM_DATA`` with imagenet-val-1300.npz, imagenet-sample-1000.npz (for the bands) and the weights of MobileNetV2.
Both networks have their norms folded and run in channels_last, batch 1; a layer is cut only where it is measured to be
faster, or, for a target of multiplications, where those are saved. Of a target, what the plan promised stands beside what was measured afterwards. In some rows the weights that are left are then fitted in closed form, on 208 of the other images. The dense and the pruned network take turns; the accuracy is that of the very network that is timed.
"""

import copy
import itertools
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import rounds
import torch
from realdata import imagenet, mobilenet_v2_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import spectrim as st
from spectrim.kernels import build

CALIBRATION = 48
LEVELS = 64
"""The compiled products take any number of different bands."""
SETTINGS = (
    {"keep": 0.5, "score": "output"},
    {"keep": 0.6, "score": "output"},
    {"keep": 0.4, "score": "output"},
    {"keep": 0.5, "score": "energy"},
    {"keep": 0.7, "score": "output"},
    {"keep": 0.3, "score": "output"},
    {"keep": 0.7, "score": "measured", "repair": True},
    {"keep": 0.6, "score": "measured", "repair": True},
    {"keep": 0.5, "score": "measured", "repair": True},
    {"keep": 0.4, "score": "measured", "repair": True},
    {"target": "macs:0.8", "score": "output", "repair": True},
    {"target": "macs:0.8", "score": "measured", "repair": True},
    {"target": "time:0.95", "score": "measured", "repair": True},
    {"target": "time:0.9", "score": "measured", "repair": True},
    {"target": "macs:0.8", "score": "measured", "repair": True, "calibration": 250},
    {"target": "time:0.95", "score": "measured", "repair": True, "calibration": 250},
    {"target": "time:0.9", "score": "measured", "repair": True, "calibration": 250},
)
"""Of the method; whether the network is repaired, and from how many images the bands come if not from :data:`CALIBRATION`."""


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


def main() -> None:
    chosen = rounds.options(__doc__.splitlines()[0], rounds=40, settings=len(SETTINGS))
    assert build(), "this benchmark needs the compiled form"
    images, labels = imagenet("imagenet-val-1300.npz", crop=224)
    sample, _ = imagenet("imagenet-sample-1000.npz", crop=224)
    others = prepared(sample[1::4])
    dense = network().to(memory_format=torch.channels_last)
    x = prepared(images[:1])
    right = answers(dense, images) == labels
    found = [{"name": "dense", "top1": 100 * right.double().mean().item()}]
    print(found[0], flush=True)
    for setting in (SETTINGS[number] for number in chosen.setting):
        started = time.perf_counter()
        model = copy.deepcopy(dense)
        asked = {name: value for name, value in setting.items() if name not in ("repair", "calibration")}
        count = setting.get("calibration", CALIBRATION)
        calibration = [*prepared(sample[:: max(1, len(sample) // count)][:count]).split(50)]
        pays = {} if "target" in setting else {"pays": "time"}
        method = st.PointwisePruning(levels=LEVELS, **pays, **asked)
        plan = st.plan(model, method, calibration=calibration)
        plan.apply_(model)
        unrepaired = None
        if setting.get("repair"):
            unrepaired = 100 * (answers(model, images) == labels).double().mean().item()
            st.repair_(model, dense, plan=plan, calibration=others)
        with torch.inference_mode():
            masked = model(x)
        st.finalize_(model, example=x)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), masked, rtol=1e-2, atol=1e-2)
            both = {"dense": lambda: dense(x), "pruned": lambda model=model: model(x)}
            took = rounds.times(both, rounds=chosen.rounds, fill_ms=100)
        ratio = min(took["pruned"].cpu) / min(took["dense"].cpu)
        middle = median(ours / theirs for ours, theirs in zip(took["pruned"].cpu, took["dense"].cpu, strict=True))
        hits = answers(model, images) == labels
        macs = [edit.spec["macs"] for edit in plan.edits]
        row = {
            "name": repr(method)
            + ", repaired" * bool(setting.get("repair"))
            + (f", {count} images" if "calibration" in setting else ""),
            "commit": rounds.COMMIT,
            **setting,
            "layers": len(plan.edits),
            "top1_unrepaired": unrepaired,
            "top1": 100 * hits.double().mean().item(),
            "changed": {"worse": int((right & ~hits).sum()), "better": int((~right & hits).sum())},
            "kept": sum(kept for _, kept, _ in macs) / sum(whole for whole, _, _ in macs) if macs else 1.0,
            "macs_saved_without_transforms": sum(whole - kept for whole, kept, _ in macs),
            "macs_saved": sum(whole - kept - transforms for whole, kept, transforms in macs),
            "dense": took["dense"].to_json(),
            "pruned": took["pruned"].to_json(),
            "time": ratio,
            "time_median": middle,
            "planned": None if plan.budget is None else plan.budget.fraction,
            "seconds": round(time.perf_counter() - started),
        }
        found.append(row)
        print(row, flush=True)
        rounds.write(
            "pointwise_mobilenetv2",
            rounds.merged("pointwise_mobilenetv2", found),
            seed=chosen.seed,
            rounds=chosen.rounds,
            threads=chosen.threads,
            images=len(labels),
            calibration=CALIBRATION,
            dense_macs=300_774_272,
        )  # after each, as it takes long


def _asked(row: Mapping[str, Any]) -> str:
    return f"keep={row['keep']}" if "keep" in row else f"target={row['target']}, planned {row['planned']:.3f}"


def _images(row: Mapping[str, Any]) -> str:
    return f", bands from {row['calibration']} images" if "calibration" in row else ""


def table(document: Mapping[str, Any]) -> str:
    """Accuracy against time."""
    dense, total = document["rows"][0], document["dense_macs"]
    lines = [
        "| bands | layers cut | MACs without transforms | MACs with | time of an image | top-1, % | points | worse / better | before the repair, % |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
        f"| dense | 0 | 1 | 1 | 1 | {dense['top1']:.2f} | | | |",
    ]
    for row in document["rows"][1:]:
        cells = [
            f"`{_asked(row)}`, {row['score']}{', repaired' * bool(row.get('repair'))}{_images(row)}",
            row["layers"],
            f"{1 - row['macs_saved_without_transforms'] / total:.3f}",
            f"{1 - row['macs_saved'] / total:.3f}",
            f"{row['time']:.3f} / {row['time_median']:.3f}",
            f"{row['top1']:.2f}",
            f"{row['top1'] - dense['top1']:+.2f}",
            f"{row['changed']['worse']} / {row['changed']['better']}",
            f"{row['top1_unrepaired']:.2f}" if row.get("repair") else "",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    hardware, versions = document["hardware"], document["versions"]
    commits = ", ".join(sorted({row["commit"] for row in document["rows"][1:]}))
    note = (
        f"{hardware['cpu']}, torch {versions['torch']}, commit {commits}; {document['threads']} thread, batch 1, norms folded, "
        f"channels_last; {document['images']:,} validation images, bands from {document['calibration']} others; multiplications and time "
        f"relative to the dense network; processor time, the ratio of the least of {document['rounds']} interleaved rounds / the median of their ratios."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
