"""MobileNetV2 with pruned pointwise convolutions, taught by the dense network on 1,000 images: accuracy against measured time.

    python benchmarks/pointwise_learned.py --search     # hyper-parameters, on 200 of the 1,000 images
    python benchmarks/pointwise_learned.py [ARM ...]    # train what is not trained yet; networks go to runs/pointwise_learned

Needs ``SPECTRIM_DATA``. No label is used: the target is the dense network's answer to the same crop of the same image. What stands
before the first layer that is cut is frozen and was computed once for each crop. The 1,300 validation images are looked
at once, when an arm is over. ``pointwise_learned_time.py`` measures what is left here on the clock.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rounds
import torch
from banded_costs import banded_costs
from judging import compared, judgement
from pointwise_clock import DENSE, FUSED, Clock
from pointwise_mobilenetv2 import network, prepared
from realdata import imagenet
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st
from spectrim.nn import cut_offs

RUNS = Path(__file__).parent.parent / "runs" / "pointwise_learned"
START = 8
"""The block of features with which the trained part begins; its maps are 14 x 14, and nothing before it is cut."""
VIEWS = 4
"""Crops of each image; the first is the whole image."""
LEARN, BATCH = 800, 10
"""Hyper-parameters are chosen on the images behind the first ``LEARN``; then all 1,000 are trained on."""
SMALL = [f"features.{block}.*" for block in range(START, 19)]
"""The layers over maps of 14 x 14 and 7 x 7."""
LATE = [f"features.{block}.*" for block in range(12, 19)]
"""The wide ones of those, which gain most on the clock."""
RECIPE = {"lr": 1e-4, "epochs": 4, "blocks": 1.0}
LONGER = {"epochs": 8, "blocks": 3.0}
DENSE_MACS = 300_774_272
FINE = 64
"""Levels: the compiled products take any number of different bands."""
ARMS: dict[str, dict[str, Any]] = {
    "output .5, tuned": {"keep": 0.5, "levels": FINE, "tune": True},
    "output .4, tuned": {"keep": 0.4, "levels": FINE, "tune": True},
    "output .6, tuned": {"keep": 0.6, "levels": FINE, "tune": True},
    "output .5": {"keep": 0.5, "levels": FINE},
    "output .4": {"keep": 0.4, "levels": FINE},
    "output .6": {"keep": 0.6, "levels": FINE},
    "energy .5": {"keep": 0.5, "levels": FINE, "score": "energy"},
    "uniform .5": {"keep": 0.5, "levels": 1},
    "halved": {"keep": 0.25, "block": 2},
    "learned .5, tuned": {"keep": 0.5, "levels": FINE, "learn": True, "tune": True, "rounds": 2},
    "learned .5": {"keep": 0.5, "levels": FINE, "learn": True, "rounds": 2},
    "uniform .5, tuned": {"keep": 0.5, "levels": 1, "tune": True, "recipe": LONGER},
    "uniform .6": {"keep": 0.6, "levels": 1},
    "uniform .6, tuned": {"keep": 0.6, "levels": 1, "tune": True, "recipe": LONGER},
    "output .6, longer": {"keep": 0.6, "levels": FINE, "tune": True, "recipe": LONGER},
    "output .5, longer": {"keep": 0.5, "levels": FINE, "tune": True, "recipe": LONGER},
    "measured .5, longer": {"keep": 0.5, "levels": FINE, "score": "measured", "tune": True, "recipe": LONGER},
    "measured .4, longer": {"keep": 0.4, "levels": FINE, "score": "measured", "tune": True, "recipe": LONGER},
    "late .5": {"keep": 0.5, "levels": 1, "where": LATE},
    "late .4": {"keep": 0.4, "levels": 1, "where": LATE},
    "late .5, tuned": {"keep": 0.5, "levels": 1, "where": LATE, "tune": True},
    "late .4, tuned": {"keep": 0.4, "levels": 1, "where": LATE, "tune": True},
    "measured .5, repaired": {"keep": 0.5, "levels": FINE, "score": "measured", "repair": True},
    "measured .4, repaired": {"keep": 0.4, "levels": FINE, "score": "measured", "repair": True},
    "measured .5, repaired, tuned": {"keep": 0.5, "levels": FINE, "score": "measured", "repair": True, "tune": True},
    "output .3, tuned": {"keep": 0.3, "levels": FINE, "tune": True},
    "halved, tuned": {"keep": 0.25, "block": 2, "tune": True},
}
"""In the order of their weight."""
TRIALS = (
    {"lr": 1e-4, "epochs": 1, "blocks": 0.0},
    {"lr": 1e-4, "epochs": 1, "blocks": 1.0},
    {"lr": 3e-4, "epochs": 1, "blocks": 1.0},
)


class Tail(nn.Module):
    """The part of a network that is trained."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = net.features[START:], net.classifier[-1]

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.blocks(x)[-1]

    def blocks(self, x: Tensor) -> list[Tensor]:
        """What each block writes, and the logits."""
        found = [x]
        for block in self.features:
            found.append(block(found[-1]))
        return [*found[1:], self.classifier(found[-1].mean((2, 3)))]


def squeezed(images: Tensor, view: int) -> Tensor:
    """Bytes (N, 224, 224, 3) as the network wants them: as they are for view 0, else made smaller and continued by reflection.

    The validation images are whole photographs squeezed into a square, so they hold higher frequencies than the centres of these
    do. Enlarged crops, the usual augmentation, hold lower ones, and teach the network that the high ones are not needed.
    """
    if view == 0:
        return prepared(images)
    generator = torch.Generator().manual_seed(view)
    found = []
    for image in prepared(images):
        down, across = (224 - torch.randint(0, 80, (2,), generator=generator)).tolist()
        part = F.interpolate(image[None], size=(down, across), mode="bilinear", antialias=True, align_corners=False)
        above, before = (int(torch.randint(0, 225 - side, (), generator=generator)) for side in (down, across))
        part = F.pad(part, (before, 224 - across - before, above, 224 - down - above), mode="reflect")
        found.append(part.flip(3) if torch.rand((), generator=generator) < 0.5 else part)
    return torch.cat(found).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def seen(dense: nn.Module, images: Tensor, view: int, name: str) -> dict[str, Tensor]:
    """What the dense network makes of one crop of each image: the input of the tail, and its logits."""
    path = RUNS / f"{name}-{view}.pt"
    if not path.exists():
        tail, parts = Tail(dense), []
        for part in squeezed(images, view).split(8):
            x = dense.features[:START](part)
            parts.append((x.contiguous().half(), tail(x).half()))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(zip(("x", "logits"), map(torch.cat, zip(*parts, strict=True)), strict=True)), path)
        print("views", name, view, flush=True)
    found: dict[str, Tensor] = torch.load(path)
    return found


def calibration(images: Tensor) -> list[Tensor]:
    """Batches of every other one of some images, each as the validation images look."""
    return [*squeezed(images[::2], VIEWS).split(20)]


def batches(views: list[dict[str, Tensor]], epoch: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of inputs and logits, each image in one of its crops."""
    generator = torch.Generator().manual_seed(1000 + epoch)
    which = torch.randint(0, len(views), (count,), generator=generator)
    for part in torch.randperm(count, generator=generator).split(BATCH):
        x, logits = (torch.stack([views[which[i]][key][i] for i in part]).float() for key in ("x", "logits"))
        yield x, logits


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler, mean over the images."""
    return F.kl_div(logits.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


def apart(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """How far the blocks are from those of the dense network: squared, relative to the square of those, summed over the blocks."""
    return torch.stack([(a - b).square().sum() / b.square().sum() for a, b in zip(found, wanted, strict=True)]).sum()


def train_(
    net: nn.Module,
    dense: nn.Module,
    views: list[dict[str, Tensor]],
    count: int,
    recipe: Mapping[str, Any],
    *,
    tune: bool,
) -> None:
    """Teach the tail what the dense network answers, and what its blocks write; the bands too, where they are learned."""
    teacher = Tail(dense).eval()
    net.requires_grad_(requires_grad=False)
    tail = Tail(net).train().to(memory_format=torch.contiguous_format)  # in which the transforms copy less
    thetas = cut_offs(net)
    weights = [each for name, each in tail.named_parameters() if not name.endswith("theta")]
    for parameter in (*thetas, *(weights if tune else ())):
        parameter.requires_grad_()
    groups = [{"params": thetas, "lr": 0.005}] * bool(thetas) + [{"params": weights, "lr": recipe["lr"]}] * tune
    optimizer = torch.optim.Adam(groups)
    steps, step = recipe["epochs"] * math.ceil(count / BATCH), 0
    for epoch in range(recipe["epochs"]):
        started, total = time.perf_counter(), 0.0
        for x, logits in batches(views, epoch, count):
            if tune:
                curve = 0.5 * (1 + math.cos(math.pi * step / steps))
                optimizer.param_groups[-1]["lr"] = recipe["lr"] * curve * min(1, (step + 1) / 20)
            *blocks, answer = tail.blocks(x)
            with torch.no_grad():
                wanted = teacher.blocks(x)[:-1]
            loss = divergence(answer, logits)
            total += loss.item()
            loss = loss + recipe["blocks"] * apart(blocks, wanted) + st.penalty(net)
            optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()
                optimizer.step()
            step += 1
            st.anneal_(net, step / steps)
        print(
            f"  epoch {epoch} loss {total / (steps / recipe['epochs']):.4f} {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    net.eval()


@torch.inference_mode()
def answers(net: nn.Module, known: Mapping[str, Tensor]) -> Tensor:
    """The logits for what the front has made of images."""
    tail = Tail(net).eval()
    return torch.cat([tail(x.float()) for x in known["x"].split(20)])


def method(arm: Mapping[str, Any]) -> st.PointwisePruning:
    """What an arm does to the network."""
    more = {name: value for name, value in arm.items() if name not in ("tune", "recipe", "where", "repair")}
    return st.PointwisePruning(**{"pays": "always", "score": "output"} | more)


def search(dense: nn.Module, images: Tensor, views: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Each trial on the first images, judged by the rest."""
    held = {key: value[LEARN:] for key, value in views[1].items()}
    rows = []
    calibrated = st.compress_(
        copy.deepcopy(dense), method(ARMS["output .4"]), where=SMALL, calibration=calibration(images[:LEARN])
    )
    for trial in ({}, *TRIALS):
        net = copy.deepcopy(calibrated)
        if trial:
            train_(net, dense, views, LEARN, trial, tune=True)
        logits, teacher = answers(net, held), held["logits"].float()
        agreement = (logits.argmax(1) == teacher.argmax(1)).double().mean().item()
        rows.append({**trial, "divergence": divergence(logits, teacher).item(), "agreement": 100 * agreement})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help="default: all")
    parser.add_argument("--search", action="store_true", help="choose the recipe instead")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    RUNS.mkdir(parents=True, exist_ok=True)
    dense = network().to(memory_format=torch.channels_last)
    images, _ = imagenet("imagenet-sample-1000.npz", crop=224)
    views = [seen(dense, images, view, "sample") for view in range(VIEWS)]
    document: dict[str, Any] = {"rows": [], "search": []}
    if (there := rounds.RESULTS / "pointwise_learned.json").exists():
        document |= json.loads(there.read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in document["rows"]}
    trials = document["search"]

    def write() -> None:
        if there.exists():  # another process may have trained other arms meanwhile
            rows.update({row["name"]: row for row in json.loads(there.read_text(encoding="utf-8"))["rows"]} | rows)
        rounds.write(
            "pointwise_learned",
            list(rows.values()),
            seed=0,
            search=trials,
            images=1300,
            sample=len(images),
            views=VIEWS,
        )

    if chosen.search:
        trials = search(dense, images, views)
        write()
        return
    validation, labels = imagenet("imagenet-val-1300.npz", crop=224)
    known = seen(dense, validation, 0, "validation")
    before = known["logits"].float().argmax(1)
    for name in chosen.arms or ARMS:
        arm, path = ARMS[name], RUNS / f"{name}.safetensors"
        if path.exists() and name in rows:
            continue
        print(name, flush=True)
        started, recipe = time.perf_counter(), RECIPE | arm.get("recipe", {})
        net = copy.deepcopy(dense)
        plan = st.plan(net, method(arm), where=arm.get("where", SMALL), calibration=calibration(images))
        plan.apply_(net)
        if arm.get("repair"):
            st.repair_(net, dense, plan=plan, calibration=calibration(images))
        tune, trained = arm.get("tune", False), arm.get("tune", False) or arm.get("learn", False)
        if trained:
            train_(net, dense, views, len(images), recipe, tune=tune)
        st.save(net, path, dtype=torch.float32)
        found = answers(net, known).argmax(1)
        torch.save(found, path.with_suffix(".pt"))
        rows[name] = {
            "name": name,
            "method": plan.method,
            **arm,
            "recipe": recipe if trained else None,
            "macs": list(banded_costs(net.eval(), dense, torch.zeros(1, 3, 224, 224))),
            "layers": len(plan.edits),
            **compared(found, before, labels),
            "seconds": round(time.perf_counter() - started),
            "commit": rounds.COMMIT,
        }
        print({key: value for key, value in rows[name].items() if key != "where"}, flush=True)
        write()


def table(document: Mapping[str, Any]) -> str:
    """Accuracy beside operations and, where they were measured, times."""
    timed_in = rounds.RESULTS / "pointwise_learned_time.json"
    times = Clock(json.loads(timed_in.read_text(encoding="utf-8"))["rows"] if timed_in.exists() else [])
    heads = ["bands", "epochs", "MACs without transforms", "MACs with", *(f"time, {each}" for each in times.heads), "top-1, %", "points (95 % interval)", "agreement, %"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "| :-- |" + " --: |" * (len(heads) - 1)]
    lines += ["| " + " | ".join([name, "", "1", "1", *times.cells(name), "", "", ""]) + " |" for name in (DENSE, FUSED)]
    for row in document["rows"]:
        whole, kept, transforms = row["macs"]
        cells = [
            row["name"],
            f"{row['recipe']['epochs']}" if row["recipe"] else "",
            f"{1 - (whole - kept) / DENSE_MACS:.3f}",
            f"{1 - (whole - kept - transforms) / DENSE_MACS:.3f}",
            *times.cells(row["name"]),
            *judgement(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    learned = ", ".join(sorted({row["commit"] for row in document["rows"]}))
    note = (
        f"{document['hardware']['cpu']}, torch {document['versions']['torch']}, accuracy at commits {learned}, "
        f"times at {times.commits() or 'none'}; {document['images']:,} validation images, {document['sample']:,} others to learn from; "
        f"epochs of Adam on the dense network's answers and blocks; multiplications and times relative to the dense network, "
        "the times of the least of all rounds / the median over the rounds, in each of which all take their turn."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
