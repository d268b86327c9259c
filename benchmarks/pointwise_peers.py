"""What stands beside MobileNetV2's pruned pointwise convolutions: fewer channels, and smaller images, taught in the same way.

    python benchmarks/pointwise_peers.py [ARM ...]      # train what is not trained yet; networks go to runs/pointwise_learned

Needs ``SPECTRIM_DATA``. The layers, the images, the teacher and the recipe are those of ``pointwise_learned.py``, whose file and table the
rows join. Channels: between the expanding and the projecting convolution of each block over maps of 14 x 14 and 7 x 7, where nearly
all multiplications are, ranked by CFDP and repaired in closed form, or by the magnitudes of torch-pruning. Smaller images: the
dense network answers to the whole ones, and what it learns from is its answer alone, as its blocks have other sizes.
"""

import argparse
import copy
import json
import time
from collections.abc import Mapping
from typing import Any

import pointwise_learned as taught
import rounds
import torch
from pointwise_mobilenetv2 import network
from realdata import imagenet
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st
from spectrim import measure

BLOCKS = range(taught.START, 18)
INNER = [f"features.{block}.conv.{place}.0" for block in BLOCKS for place in (0, 1)]
CALIBRATION = 6
"""Batches of 20 images, for the ranking and the repair."""
ARMS: dict[str, dict[str, Any]] = {
    "width .65": {"width": 0.65},
    "width .8": {"width": 0.8},
    "magnitude .65": {"width": 0.65, "peer": "torch-pruning"},
    "magnitude .8": {"width": 0.8, "peer": "torch-pruning"},
    "192 pixels": {"side": 192},
    "width .65, tuned": {"width": 0.65, "tune": True},
    "192 pixels, tuned": {"side": 192, "tune": True},
    "magnitude .65, tuned": {"width": 0.65, "peer": "torch-pruning", "tune": True},
    "width .8, tuned": {"width": 0.8, "tune": True},
    "magnitude .8, tuned": {"width": 0.8, "peer": "torch-pruning", "tune": True},
}
"""The tuned ones begin where the others are."""


class Smaller(nn.Module):
    """A network that sees smaller images."""

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images of any size."""
        return self.net(smaller(x, self.side))


def smaller(x: Tensor, side: int) -> Tensor:
    """Images of another size."""
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def narrowed(dense: nn.Module, keep: float, images: Tensor) -> tuple[nn.Module, str]:
    """The network with fewer channels inside its late blocks, by CFDP and repaired; and what was done."""
    net, batches = copy.deepcopy(dense), taught.calibration(images)[:CALIBRATION]
    plan = st.plan(net, st.CFDP(keep=keep), where=INNER, calibration=batches)
    plan.apply_(net)
    st.repair_(net, dense, plan=plan, calibration=batches, images=sum(map(len, batches)))
    return net, f"{plan.method}, repaired"


def by_magnitude(dense: nn.Module, keep: float) -> tuple[nn.Module, str]:
    """The same with the ranking and the cut of torch-pruning."""
    import torch_pruning as tp

    net = copy.deepcopy(dense).requires_grad_()
    inner = {id(net.get_submodule(name)) for name in INNER if name.endswith(".conv.0.0")}
    others = [
        each for each in net.modules()
        if isinstance(each, nn.Conv2d | nn.Linear) and each.weight.ndim in (2, 4) and id(each) not in inner
        and getattr(each, "groups", 1) == 1
    ]  # fmt: skip
    tp.pruner.BasePruner(
        net,
        torch.zeros(1, 3, 224, 224),
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=1 - keep,
        ignored_layers=others,
        round_to=8,
    ).step()
    return net.requires_grad_(requires_grad=False), "torch-pruning, GroupMagnitudeImportance"


@torch.inference_mode()
def seen_smaller(dense: nn.Module, images: Tensor, view: int, name: str, side: int) -> dict[str, Tensor]:
    """What the front makes of smaller images, with the answers of the dense network to the whole ones."""
    whole = taught.seen(dense, images, view, name)
    path = taught.RUNS / f"{name}-{view}-{side}.pt"
    if not path.exists():
        parts = [
            dense.features[: taught.START](smaller(part, side)).contiguous().half()
            for part in taught.squeezed(images, view).split(8)
        ]
        torch.save(torch.cat(parts), path)
    return {"x": torch.load(path), "logits": whole["logits"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help="default: all")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    taught.RUNS.mkdir(parents=True, exist_ok=True)
    dense = network().to(memory_format=torch.channels_last)
    images, _ = imagenet("imagenet-sample-1000.npz", crop=224)
    validation, labels = imagenet("imagenet-val-1300.npz", crop=224)
    before = taught.seen(dense, validation, 0, "validation")["logits"].float().argmax(1)
    there = rounds.RESULTS / "pointwise_learned.json"
    for name in chosen.arms or ARMS:
        arm, path = ARMS[name], taught.RUNS / f"{name}.safetensors"
        document = json.loads(there.read_text(encoding="utf-8"))
        if path.exists() and name in {row["name"] for row in document["rows"]}:
            continue
        print(name, flush=True)
        started, side, tune = time.perf_counter(), arm.get("side"), arm.get("tune", False)
        net, done = start(name, dense, images)
        if side is None:
            known = taught.seen(dense, validation, 0, "validation")
        else:
            known = seen_smaller(dense, validation, 0, "validation", side)
        recipe = taught.RECIPE | ({} if side is None else {"blocks": 0.0})
        if tune:
            views = [
                taught.seen(dense, images, view, "sample")
                if side is None
                else seen_smaller(dense, images, view, "sample", side)
                for view in range(taught.VIEWS)
            ]
            taught.train_(net, dense, views, len(images), recipe, tune=True)
        st.save(net, path, dtype=torch.float32)
        found = taught.answers(net, known).argmax(1)
        torch.save(found, path.with_suffix(".pt"))
        macs = measure.macs(net.eval(), torch.zeros(1, 3, side or 224, side or 224))
        row = {
            "name": name,
            "method": done,
            **arm,
            "recipe": recipe if tune else None,
            "macs": [taught.DENSE_MACS, macs, 0],
            "layers": 0 if side else len(BLOCKS),
            **taught.compared(found, before, labels),
            "seconds": round(time.perf_counter() - started),
            "commit": rounds.COMMIT,
        }
        print(row, flush=True)
        write(there, row)


def start(name: str, dense: nn.Module, images: Tensor) -> tuple[nn.Module, str]:
    """The network of an arm before any training, and what was done; kept, as it takes long."""
    arm, name = ARMS[name], name.removesuffix(", tuned")
    path = taught.RUNS / f"{name}.safetensors"
    if "side" in arm:
        return copy.deepcopy(dense), "smaller images"
    if path.exists():
        known = json.loads((rounds.RESULTS / "pointwise_learned.json").read_text(encoding="utf-8"))["rows"]
        return st.load_(network(), path), next(row["method"] for row in known if row["name"] == name)
    return by_magnitude(dense, arm["width"]) if "peer" in arm else narrowed(dense, arm["width"], images)


def write(there: Any, row: Mapping[str, Any]) -> None:
    """Put a row into the file, which another process may have written meanwhile."""
    document = json.loads(there.read_text(encoding="utf-8"))
    rows = {each["name"]: each for each in document["rows"]} | {row["name"]: row}
    more = {name: document[name] for name in ("search", "images", "sample", "views")}
    rounds.write("pointwise_learned", list(rows.values()), seed=document["seed"], **more)


if __name__ == "__main__":
    main()
