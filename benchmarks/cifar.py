"""Training and testing small networks on CIFAR-10: what the benchmarks on its images share, their options and pictures included."""

import argparse
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st

ROOT = Path(__file__).parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the pretrained weights were trained with


@dataclass(frozen=True)
class Images:
    """Pixels (N, 32, 32, 3) as bytes, and their classes (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> "Images":
        return Images(self.pixels[rows], self.labels[rows])

    def to(self, device: torch.device) -> "Images":
        """A copy on the device."""
        return Images(self.pixels.to(device), self.labels.to(device))


def cifar10(*, train: bool) -> Images:
    """All images of a split in the official order."""
    import realdata  # beside this file; tables and plots need no data

    return Images(*realdata.cifar10(train=train))


def weights(name: str) -> dict[str, Tensor]:
    """Pretrained weights by the stem of their file."""
    import realdata
    from safetensors.torch import load_file

    return load_file(realdata.folder() / "weights" / f"{name}.safetensors")


def inputs(pixels: Tensor) -> Tensor:
    """What the network sees: normalised, (N, 3, 32, 32), channels last in memory."""
    mean, std = (pixels.new_tensor(values, dtype=torch.float32) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def augmented(padded: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of images with a border of 4 pixels, half of them mirrored; a pure function of the generator."""
    n, side = len(rows), 32
    down, right = (torch.randint(0, 9, (n, 1), generator=generator) + torch.arange(side) for _ in range(2))
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    right = torch.where(mirrored, right.flip(1), right)
    index = (rows[:, None, None], down[:, :, None], right[:, None, :])
    return padded[tuple(each.to(padded.device) for each in index)]


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images) -> float:
    """Top-1 in percent, in float32."""
    model.eval()
    right = 0
    for rows in range(0, len(images), 500):
        part = images[rows : rows + 500]
        right += int((model(inputs(part.pixels)).argmax(1) == part.labels).sum())
    return round(100 * right / len(images), 3)


@torch.no_grad()
def reestimate_(model: nn.Module, images: Images) -> None:
    """Give the batch normalisations the mean statistics of 20 batches of training images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for rows in range(0, 20 * 128, 128):
        model(inputs(images.pixels[rows : rows + 128]))
    for norm in norms:
        norm.momentum = 0.1


@dataclass
class Clock:
    """Seconds of work, over all the processes that had a part in it."""

    wall: float = 0.0
    processor: float = 0.0

    def __post_init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """Count until now."""
        now = time.perf_counter(), time.process_time()
        self.wall += now[0] - self._last[0]
        self.processor += now[1] - self._last[1]
        self._last = now

    def to_json(self) -> dict[str, float]:
        """Both, rounded."""
        return {"wall": round(self.wall, 1), "processor": round(self.processor, 1)}


def generator_of(seed: int, number: int) -> torch.Generator:
    """A generator of its own for each number under each seed; torch's reads 32 bits of what it is seeded with."""
    return torch.Generator().manual_seed((seed * 2_654_435_761 + number) % (1 << 32))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a training run; everything random in it depends on the seed and the step alone."""

    steps: int
    batch: int
    lr: float
    warmup: float
    bfloat16: bool
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate: a linear rise, then half a cosine down to zero."""
        progress = step / self.steps
        if progress < self.warmup:
            return self.lr * (progress + 1e-3) / (self.warmup + 1e-3)
        return self.lr * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2

    def batches(self, size: int, first: int) -> Iterator[tuple[int, Tensor]]:
        """Steps and the rows of their images, from step ``first`` on; every epoch has its own permutation."""
        each = size // self.batch
        for epoch in range(first // each, math.ceil(self.steps / each)):
            order = torch.randperm(size, generator=generator_of(self.seed, (1 << 31) + epoch))
            for number in range(max(0, first - epoch * each), min(each, self.steps - epoch * each)):
                yield epoch * each + number, order[number * self.batch : (number + 1) * self.batch]


def trained_(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    plan: Plan,
    checkpoint: Path,
    *,
    after: Callable[[int], None] = lambda _: None,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda scores, labels, _: F.cross_entropy(scores, labels),
) -> Clock:
    """Train, or go on where the checkpoint stands; says how long all of it took.

    An interrupted run ends like an uninterrupted one. ``after`` is called with the number of steps that are made,
    ``loss_of`` with scores, labels and inputs.
    """
    device = images.pixels.device
    clock, first = Clock(), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock, first = Clock(**state["clock"]), state["step"]
        print(f"  continues at step {first:,} of {plan.steps:,}")
    padded = F.pad(images.pixels, (0, 0, 4, 4, 4, 4))
    mean = math.nan

    def write(done: int) -> None:
        clock.lap()
        content = {
            "step": done,
            "clock": clock.to_json(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, part := checkpoint.with_suffix(".part"))
        part.replace(checkpoint)
        print(f"  step {done:>6,} of {plan.steps:,}  loss {mean:.4f}  {clock.wall:6.0f} s", flush=True)

    model.train()
    for step, rows in plan.batches(len(images), first):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        generator = generator_of(plan.seed, step)
        x = inputs(augmented(padded, rows, generator))
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bfloat16):
            loss = loss_of(model(x), images.labels[rows.to(device)], x) + st.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after(step + 1)
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 200 == 0 or step + 1 == plan.steps:
            write(step + 1)
    return clock


def commit() -> str | None:
    """What is measured; take it when the program starts, as the working tree may move on while it runs.

    Where a copy of the tree runs, which knows no history, ``SPECTRIM_COMMIT`` says what it is a copy of.
    """
    if told := os.environ.get("SPECTRIM_COMMIT"):
        return told
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # there is no git
        return None
    return done.stdout.strip() or None


def read(path: Path) -> dict[str, Any] | None:
    """Results written before, if there are any."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path: Path, results: dict[str, Any]) -> None:
    """Replace the results, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


# -- for people -------------------------------------------------------------------------------------------------------


def options(doc: str, out: Path, *, seeds: str, epochs: str | None = None) -> argparse.ArgumentParser:
    """The options that all these programs have.

    Args:
        doc: Of the program; its first line says what it is.
        out: Where results go if nothing else is said.
        seeds, epochs: What those options stand in place of; None for a program without epochs.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--seeds", type=int, nargs="+", help=seeds)
    if epochs is not None:
        parser.add_argument("--epochs", type=float, help=epochs)
    parser.add_argument("--draw", action="store_true", help="table and plot from the file; nothing is trained")
    return parser


def told(
    results: dict[str, Any] | None,
    out: Path,
    *,
    table: Callable[[Mapping[str, Any]], str],
    draw: Callable[[Mapping[str, Any], Path], None],
    picture: Path,
) -> int:
    """How such a program ends: with the table on the screen and the plot in a file."""
    if results is None:
        raise SystemExit(f"{out} does not exist. Run without --draw first.")
    print(table(results))
    draw(results, picture)
    return 0


def spread(values: Sequence[float], how: str = ".2f") -> str:
    """The mean over the seeds, and the deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return format(statistics.fmean(values), how) + deviation


@contextmanager
def plotted(picture: Path, rows: int, columns: int, **how: Any) -> Iterator[Any]:
    """Axes in a grid, which are a picture after the block; no window is opened."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(rows, columns, dpi=160, layout="constrained", squeeze=False, **how)
    yield grid
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def tidy(axes: Any, *, grid: str = "both") -> None:
    """Axes without a frame, with a faint grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(axis=grid, labelsize=8)
