"""MobileNetV2 with pruned pointwise convolutions, all of it taught at length by the dense network on 1,000 images: for an accelerator.

    python benchmarks/pointwise_taught.py --plan                        # decide the bands, on any machine; plans are a few kilobytes
    python benchmarks/pointwise_taught.py --seconds 430 "measured .5" "uniform .5"

Needs ``SPECTRIM_DATA`` with imagenet-sample-1000.npz and the weights of MobileNetV2. Unlike in ``pointwise_learned.py``, layers over maps of any size are cut where
multiplications are saved with the transforms counted, every weight trains, and each step draws new crops and mixtures of images. No
label is used: the target is the dense network's answer to the very same crop. Each arm leaves one file, with how it was trained inside. The time is shared
by the arms; the learning rate follows the clock, so that it ends at zero however fast the machine is. ``pointwise_taught_judge.py`` looks at the validation images.
"""

import argparse
import copy
import itertools
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import rounds
import torch
from pointwise_learned import FINE, SMALL, apart, divergence, squeezed
from pointwise_mobilenetv2 import network, prepared
from pointwise_peers import INNER, smaller
from realdata import imagenet
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st
from spectrim.measure.clock import threads_set
from spectrim.measure.surroundings import hardware, versions
from spectrim.nn import cut_offs

STARTED = time.perf_counter()
RUNS = Path(__file__).parent.parent / "runs" / "pointwise_taught"
ARMS: dict[str, dict[str, Any]] = {
    "measured .5": {"keep": 0.5},
    "measured .6": {"keep": 0.6},
    "measured .4": {"keep": 0.4},
    "measured .5, slow": {"keep": 0.5, "rate": 0.3},
    "uniform .5": {"keep": 0.5, "levels": 1},
    "learned .5": {"keep": 0.5, "learn": True, "rounds": 2},
    "uniform .6": {"keep": 0.6, "levels": 1},
    "uniform .4": {"keep": 0.4, "levels": 1},
    "small maps .5": {"keep": 0.5, "pays": "always", "where": SMALL},
    "small maps .4": {"keep": 0.4, "pays": "always", "where": SMALL},
    "small maps .3": {"keep": 0.3, "pays": "always", "where": SMALL},
    "time .78": {"target": "time:0.78", "threads": 2},
    "time .8": {"target": "time:0.8", "threads": 2},
    "time .82": {"target": "time:0.82", "threads": 2},
    "192 pixels": {"side": 192},
    "width .8": {"width": 0.8},
    "width .65": {"width": 0.65},
}
"""Bands, in rows with a time to as much of it as they need, one image on so many threads where they are planned; some with another share of the rate, and at the end what stands beside them: smaller images, and fewer channels inside the blocks over small maps, ranked by CFDP."""
CALIBRATION, HELD = 48, 50
"""Images that the bands come from; images that are not trained on but looked at meanwhile."""
RECIPE = {"lr": 1e-4, "cut_offs": 0.01, "blocks": 1.0, "fades": 0.75, "batch": 64}
"""Rates of weights and of cut-offs; what the distance of the blocks weighs beside the answers, and the share of it that fades with the rate."""
WARM, EVERY = 0.03, 20
"""Share of the training in which the rate rises; steps between two looks at the clock."""
SAVING = 8.0
"""Seconds that are kept back for what comes behind the training of an arm."""
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def method(arm: Mapping[str, Any]) -> st.PointwisePruning | st.CFDP:
    """What an arm does to the network."""
    if "width" in arm:
        return st.CFDP(keep=arm["width"])
    asked = {name: value for name, value in arm.items() if name not in ("threads", "where", "rate")}
    return st.PointwisePruning(**{"pays": "macs", "score": "measured", "levels": FINE} | asked)


def stem(name: str) -> str:
    """What the file of an arm is called: some ways to copy files know no blanks.

    >>> stem("measured .5, slow")
    'measured-5-slow'
    """
    return name.replace(" ", "-").replace(".", "").replace(",", "")


def planned(name: str, dense: nn.Module, images: Tensor) -> st.Plan:
    """Where an arm starts; decided on the processor, once, and kept."""
    arm, path = ARMS[name], RUNS / "plans" / f"{stem(name.removesuffix(', slow'))}.json"
    if not path.exists():
        seen = [*squeezed(images[:: max(1, len(images) // CALIBRATION)][:CALIBRATION], 4).split(20)]
        where = INNER if "width" in arm else arm.get("where")
        with threads_set(arm.get("threads")):
            plan = st.plan(copy.deepcopy(dense), method(arm), where=where, calibration=seen)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plan.to_json() + "\n", encoding="utf-8")
    return st.Plan.from_json(path.read_text(encoding="utf-8"))


def student(name: str, dense: nn.Module, images: Tensor) -> tuple[nn.Module, str]:
    """The network of an arm before the training, on the processor, and what was done to it."""
    net = copy.deepcopy(dense)
    if "side" in ARMS[name]:
        return net, "smaller images"
    plan = planned(name, dense, images)
    return plan.apply_(net), plan.method


def drawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Bytes (N, 224, 224, 3) as crops in the range of the network: moved, flipped, made smaller or larger, and some mixed with another.

    More are made smaller, and continued by reflection, than larger, as enlarged ones hold no high frequencies; a third is
    only moved, by whole pixels. What is mixed has at most half of the other image in it.
    """
    n, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator, device=device) * (high - low) + low

    whole = uniform(0, 1) < 1 / 3
    scale, aspect = (uniform(math.log(low), math.log(high)).exp() for low, high in ((0.82, 1.3), (0.87, 1.15)))
    sides = torch.stack([scale * aspect, scale / aspect])
    sides = torch.where(whole, torch.ones_like(sides), sides)
    pixels = torch.stack([uniform(-16, 17), uniform(-16, 17)]).floor() * (2 / 224)
    moved = torch.stack([uniform(-1, 1), uniform(-1, 1)]) * (1 - sides).abs()
    moved = torch.where(whole, pixels, moved)
    sides[0] *= (uniform(0, 1) < 0.5).float() * 2 - 1
    # Without a product of matrices, which would round places to a twentieth of a pixel on some devices.
    pixel = (2 * torch.arange(224, device=device) + 1) / 224 - 1
    across, down = (pixel * side[:, None] + by[:, None] for side, by in zip(sides, moved, strict=True))
    grid = torch.stack([across[:, None, :].expand(n, 224, 224), down[:, :, None].expand(n, 224, 224)], -1)
    x = prepared(images).contiguous()
    x = F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(-1, 1)
    share = (uniform(0, 0.5) * (uniform(0, 1) < 0.5))[:, None, None, None]
    return x * (1 - share) + x.roll(1, 0) * share


def places(count: int, batch: int, device: torch.device, seed: int) -> Iterator[Tensor]:
    """Endless batches of places, every one once in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < 64 * batch:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield from left[: 64 * batch].to(device).split(batch)
        left = left[64 * batch :]


def blocks(net: nn.Module, x: Tensor) -> list[Tensor]:
    """What each block writes, and the logits."""
    found = [x]
    for block in net.features:
        found.append(block(found[-1]))
    return [*found[1:], net.classifier[-1](found[-1].mean((2, 3)))]


def finite(net: nn.Module) -> bool:
    """Whether all of its numbers are."""
    return all(bool(torch.isfinite(each).all()) for each in net.parameters())


class Lesson:
    """One network in front of its teacher, where both are to run.

    Args:
        net, dense: The student, and what it is to answer like; both are put on the device.
        arm: What was done to the student.
        recipe: Like :data:`RECIPE`.
        device: Where.
        layout: Of the maps: a name in :data:`LAYOUTS`.
    """

    def __init__(
        self,
        net: nn.Module,
        dense: nn.Module,
        arm: Mapping[str, Any],
        recipe: Mapping[str, Any],
        device: torch.device,
        layout: str,
    ) -> None:
        self.device, self.recipe, self.memory = device, recipe, LAYOUTS[layout]
        self.gpu = device.type == "cuda"
        # No gradients, and nothing of it is beyond the range: more exact than bfloat16 and as fast.
        self.whole = torch.float16 if self.gpu else torch.float32
        teacher = copy.deepcopy(dense).eval().requires_grad_(requires_grad=False)
        self.teacher = teacher.to(device, self.whole).to(memory_format=torch.channels_last)
        self.net = net.train().requires_grad_().to(device).to(memory_format=self.memory)
        self.side = arm.get("side")
        thetas = cut_offs(self.net)
        known = {id(theta) for theta in thetas}
        self.weights = [each for each in self.net.parameters() if id(each) not in known]
        groups = [{"params": self.weights, "lr": 0.0, "top": recipe["lr"], "falls": True}]
        groups += [{"params": thetas, "lr": 0.0, "top": recipe["cut_offs"], "falls": False}] * bool(thetas)
        self.learns = bool(thetas)
        self.optimizer = torch.optim.Adam(groups)

    def answers(self, x: Tensor) -> list[Tensor]:
        """What each block of the student writes, and its logits."""
        x = smaller(x, self.side) if self.side else x
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.gpu):
            return blocks(self.net, x.contiguous(memory_format=self.memory))

    def loss(self, x: Tensor, beside: float) -> tuple[Tensor, Tensor]:
        """The divergence, and all that is minimised: ``beside`` it the distance of the blocks."""
        with torch.no_grad():
            *wanted, teacher = blocks(self.teacher, x.to(self.whole).contiguous(memory_format=torch.channels_last))
        *found, answer = self.answers(x)
        told = total = divergence(answer.float(), teacher.float())
        if not self.side:  # whose blocks have other sizes
            total = told + beside * apart([each.float() for each in found], [each.float() for each in wanted])
        return told, total + st.penalty(self.net) if self.learns else total

    def step(self, x: Tensor, progress: float) -> Tensor:
        """One step at a progress in [0, 1]; at 0 nothing moves yet. Returns the divergence, which nobody waits for."""
        rise, fall = min(1.0, progress / WARM), 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * rise * (fall if group["falls"] else 1.0)
        told, total = self.loss(x, self.recipe["blocks"] * (1 - self.recipe["fades"] * (1 - fall)))
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.optimizer.step()
        return told.detach()

    def copied(self) -> list[Tensor]:
        """The numbers as they are now."""
        return [each.detach().clone() for each in self.net.parameters()]

    @torch.no_grad()
    def go_back_(self, to: list[Tensor]) -> None:
        """To numbers that were good, and on from there more slowly."""
        for each, value in zip(self.net.parameters(), to, strict=True):
            each.copy_(value)
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["top"] *= 0.5

    def wait(self) -> None:
        """Until everything that was begun is done."""
        if self.gpu:
            torch.cuda.synchronize()

    @torch.no_grad()
    def agreement(self, x: Tensor) -> float:
        """Per cent of the images to which both answer alike."""
        self.net.eval()
        answer = self.answers(x)[-1].argmax(1)
        teacher = self.teacher(x.to(self.whole).contiguous(memory_format=torch.channels_last)).argmax(1)
        self.net.train()
        return 100 * (answer == teacher).double().mean().item()


def pace(lesson: Lesson, images: Tensor, generator: torch.Generator, steps: int) -> float:
    """Seconds of a step, behind some that warm up; nothing is learned."""
    batch = images[: lesson.recipe["batch"]]
    for begun in (0, 1):
        lesson.wait()
        started = time.perf_counter()
        for _ in range(steps):
            lesson.step(drawn(batch, generator), 0.0)
        lesson.wait()
        if begun:
            return (time.perf_counter() - started) / steps
    raise AssertionError


def teach_(
    lesson: Lesson, images: Tensor, held: Tensor, *, over: Callable[[int, float], float], seed: int
) -> dict[str, Any]:
    """Train to the end.

    Args:
        lesson: The network and its teacher.
        images, held: Bytes, on the device; and more of them, to look at meanwhile.
        over: From the number of steps and the seconds that are over to the progress.
        seed: Of batches, crops and mixtures.

    Returns:
        How long it took, and how it went.
    """
    generator = torch.Generator(lesson.device).manual_seed(seed)
    queue = places(len(images), lesson.recipe["batch"], lesson.device, seed)
    view = prepared(held)
    trace: list[dict[str, float | None]] = []
    losses: list[Tensor] = []
    st.anneal_(lesson.net, 0.0)
    good, back = lesson.copied(), 0
    started, step, progress, seen = time.perf_counter(), 0, 0.0, 0
    while progress < 1:
        where = next(queue)
        losses.append(lesson.step(drawn(images[where], generator), max(progress, 1e-6)))
        step, seen = step + 1, seen + len(where)
        progress = min(1.0, over(step, time.perf_counter() - started))
        if step % EVERY == 0 or progress >= 1:
            lesson.wait()
            progress = min(1.0, over(step, time.perf_counter() - started))
            if not bool(torch.isfinite(losses[-1])) or (progress >= 1 and not finite(lesson.net)):
                lesson.go_back_(good)
                losses, back = losses[:1], back + 1
                print(f"  {step} steps: gone back, to half the rate", flush=True)
            st.anneal_(lesson.net, progress)
        if progress >= 1 or (step % EVERY == 0 and progress * 10 >= len(trace) + 1):
            mean = torch.stack(losses).nanmean().item()
            losses.clear()
            good = lesson.copied() if finite(lesson.net) else good
            trace.append(
                {
                    "progress": round(progress, 4),
                    "loss": mean if math.isfinite(mean) else None,
                    "agreement": lesson.agreement(view),
                }
            )
            print(
                f"  {step} steps, {seen / len(images):.1f} epochs, {time.perf_counter() - started:.0f} s: {trace[-1]}",
                flush=True,
            )
    lesson.net.eval()
    took = time.perf_counter() - started
    return {
        "steps": step,
        "gone_back": back,
        "epochs": round(seen / len(images), 2),
        "trained_seconds": round(took, 1),
        "trace": trace,
    }


def taught(name: str, dense: nn.Module, sample: Tensor, chosen: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Train one arm and write its file; what is said of it."""
    began, device = time.perf_counter(), torch.device(chosen.device)
    arm, recipe = (
        ARMS[name],
        RECIPE | {"lr": chosen.lr * ARMS[name].get("rate", 1), "batch": chosen.batch, "blocks": chosen.blocks},
    )
    start, done = student(name, dense, sample)
    there = sample[: chosen.images].to(device)
    learn, held = there[: -chosen.held], there[-chosen.held :]
    generator = torch.Generator(device).manual_seed(chosen.seed)
    paces = {}
    for layout in LAYOUTS if chosen.layout == "auto" else ():
        paces[layout] = pace(
            Lesson(copy.deepcopy(start), dense, arm, recipe, device, layout), learn, generator, chosen.try_steps
        )
    if paces:
        chosen.layout = min(paces, key=lambda each: paces[each])
        print(f"  seconds of a step: {paces}", flush=True)
    lesson = Lesson(start, dense, arm, recipe, device, chosen.layout)
    if chosen.epochs is None:
        end = max(1.0, seconds - (time.perf_counter() - began) - SAVING)
        how = teach_(lesson, learn, held, over=lambda _, passed: passed / end, seed=chosen.seed)
    else:
        steps = math.ceil(chosen.epochs * len(learn) / recipe["batch"])
        how = teach_(lesson, learn, held, over=lambda step, _: step / steps, seed=chosen.seed)
    row = {
        "name": name,
        "method": done,
        **{key: value for key, value in arm.items() if key != "where"},
        "recipe": recipe,
        **how,
        "images": len(learn),
        "layout": chosen.layout,
        "seconds": round(time.perf_counter() - began, 1),
        "seed": chosen.seed,
        "commit": rounds.COMMIT,
        "hardware": hardware(),
        "versions": versions(),
    }
    chosen.networks.mkdir(parents=True, exist_ok=True)
    st.save(lesson.net, chosen.networks / f"{stem(name)}.safetensors", provenance=row)
    return row


def asked(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help="default: all")
    parser.add_argument("--plan", action="store_true", help="only decide where the arms start")
    parser.add_argument(
        "--seconds", type=float, default=430.0, help="of the whole program, shared by the arms (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=float, help="of each arm, instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", type=Path, default=RUNS, help="folder for the files (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file for what is printed of the arms")
    parser.add_argument(
        "--layout", choices=[*LAYOUTS, "auto"], default="auto", help="auto: the faster one, tried before the first arm"
    )
    parser.add_argument("--lr", type=float, default=RECIPE["lr"])
    parser.add_argument("--blocks", type=float, default=RECIPE["blocks"], help="weight of the distance of the blocks")
    parser.add_argument("--batch", type=int, default=RECIPE["batch"])
    parser.add_argument("--images", type=int, default=1000, help="take so many alone (default: all)")
    parser.add_argument("--held", type=int, default=HELD, help="of these, not trained on (default: %(default)s)")
    parser.add_argument("--try-steps", type=int, default=6, help="steps for each layout that is tried")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chosen.arms = chosen.arms or [*ARMS]
    if unknown := [name for name in chosen.arms if name not in ARMS]:
        parser.error(f"no arm is called {unknown[0]!r}. Known: {', '.join(ARMS)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """0 if every arm was trained."""
    chosen = asked(arguments)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    torch.set_float32_matmul_precision("high")  # products of the transforms; the others are narrower anyway
    torch.backends.cudnn.benchmark = True
    dense = network().to(memory_format=torch.channels_last)
    images = imagenet("imagenet-sample-1000.npz", crop=224)[0]
    print(f"ready after {time.perf_counter() - STARTED:.0f} s, commit {rounds.COMMIT}, on {chosen.device}", flush=True)
    rows, failed = [], {}
    for left, name in zip(itertools.count(len(chosen.arms), -1), chosen.arms, strict=False):
        print(name, flush=True)
        try:
            if chosen.plan:
                if "side" not in ARMS[name]:
                    print(planned(name, dense, images), flush=True)
                continue
            rows.append(taught(name, dense, images, chosen, (chosen.seconds - (time.perf_counter() - STARTED)) / left))
        except Exception as error:  # noqa: BLE001 - the next arm can still be trained
            failed[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        if chosen.out is not None:
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            chosen.out.write_text(json.dumps({"rows": rows, "failed": failed}, indent=1) + "\n", encoding="utf-8")
    print(f"over after {time.perf_counter() - STARTED:.0f} s; {len(rows)} trained, failed: {failed}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
