"""Training for a number of epochs or a number of seconds, with images, crops and loss on the device: nothing waits for it between steps."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from cifar import MEAN, STD, Images, generator_of
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st

_BORDER, _SIDE = 4, 32
_LOOK = 50
"""So many steps are made between two looks at the clock."""
_WARM, _TIMED = 4, 8
"""Steps of a copy of the network by which a memory format is chosen."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """How long a run takes: so many epochs; or about so many seconds, but never more epochs than ``most``."""

    epochs: float | None = None
    seconds: float | None = None
    most: float = 120.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.seconds is None):
            raise ValueError(f"give epochs or seconds, one of them, got epochs={self.epochs}, seconds={self.seconds}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a training run but its length."""

    batch: int
    lr: float
    warmup: float
    smoothing: float
    bfloat16: bool
    seed: int

    def rate(self, progress: float) -> float:
        """Learning rate: a linear rise, then half a cosine down to zero."""
        if progress < self.warmup:
            return self.lr * (progress + 1e-3) / (self.warmup + 1e-3)
        return self.lr * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run came to."""

    epochs: float
    steps: int
    step_ms: float
    loss: float
    train_seconds: float
    channels_last: bool

    def to_json(self) -> dict[str, Any]:
        """Rounded."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


class Crops:
    """Shuffled batches of an epoch, cropped at random from images with a border, half of them mirrored; drawn on the processor, made on the device."""

    def __init__(self, images: Images, recipe: Recipe) -> None:
        self._images, self._recipe = images, recipe
        device = images.pixels.device
        self._padded = F.pad(images.pixels, (0, 0, _BORDER, _BORDER, _BORDER, _BORDER))
        self._mean, self._std = (torch.tensor(values, device=device) * 255 for values in (MEAN, STD))
        self._side = torch.arange(_SIDE, device=device)

    @property
    def device(self) -> torch.device:
        """Where they are made."""
        return self._images.pixels.device

    @property
    def steps(self) -> int:
        """Full batches of an epoch."""
        return len(self._images) // self._recipe.batch

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and classes; a pure function of the recipe's seed and the number."""
        generator, size, device = generator_of(self._recipe.seed, number), len(self._images), self.device
        order = torch.randperm(size, generator=generator).to(device)
        corner = torch.randint(0, 2 * _BORDER + 1, (size, 2), generator=generator).to(device)
        mirrored = (torch.rand(size, 1, generator=generator) < 0.5).to(device)
        for begin in range(0, self.steps * self._recipe.batch, self._recipe.batch):
            part = slice(begin, begin + self._recipe.batch)
            rows = order[part]
            down, right = corner[part, :1] + self._side, corner[part, 1:] + self._side
            right = torch.where(mirrored[part], right.flip(1), right)
            pixels = self._padded[rows[:, None, None], down[:, :, None], right[:, None, :]]
            yield ((pixels.float() - self._mean) / self._std).permute(0, 3, 1, 2), self._images.labels[rows]


def trained_(
    net: nn.Module,
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
    images: Images,
    recipe: Recipe,
    box: Box,
    *,
    after: Callable[[nn.Module, float], None] = lambda _net, _progress: None,
) -> Trained:
    """Train a network where it stands, on the device of the images.

    In seconds, progress goes on with each step by the share that the step is expected to take of what is left of the time; what is expected
    is looked up anew every few steps. So a run ends in time, at a learning rate of zero, whoever else uses the device.

    Args:
        net: To train.
        optimizer_of: Makes the optimizer.
        images: On the device.
        recipe: How.
        box: How long.
        after: Is called with the network and the progress, in (0, 1], after every step.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    start = time.perf_counter()
    device = images.pixels.device
    crops = Crops(images, recipe)
    last, step_s = format_of(net, optimizer_of, crops, recipe)
    net.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    net.train()
    optimizer = optimizer_of(net)
    least = 1 / max(1, round((box.most if box.epochs is None else box.epochs) * crops.steps))
    progress, done, epoch, loss = 0.0, 0, 0, torch.zeros((), device=device)
    begun = time.perf_counter()

    def gain() -> float:
        """By how much of the whole the next steps go on."""
        if box.seconds is None:
            return least
        left = box.seconds - (time.perf_counter() - start)
        each = (time.perf_counter() - begun) / done if done >= _LOOK else step_s
        return max(least, (1 - progress) / max(1, round(left / each)))

    step = gain()
    while progress < 1 - 1e-9:
        for x, labels in crops.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(progress)
            loss = _step(net, optimizer, x, labels, recipe)
            done += 1
            progress = min(1.0, progress + step)
            if progress > 1 - 1e-9:
                progress = 1.0
            after(net, progress)
            if progress == 1.0:
                break
            if done % _LOOK == 0:
                _wait(device)
                step = gain()
        epoch += 1
    _wait(device)
    if not math.isfinite(float(loss)):
        raise FloatingPointError(f"the loss is {float(loss)} after {done} steps.")
    took = time.perf_counter() - begun
    return Trained(
        epochs=done / crops.steps,
        steps=done,
        step_ms=1000 * took / done,
        loss=float(loss),
        train_seconds=time.perf_counter() - start,
        channels_last=last,
    )


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        scores = net(x)
    loss = F.cross_entropy(scores.float(), labels, label_smoothing=recipe.smoothing) + st.penalty(net)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def format_of(
    net: nn.Module, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer], crops: Crops, recipe: Recipe
) -> tuple[bool, float]:
    """Whether the network trains faster with its channels last, and the seconds of a step, both by a few steps of a copy."""
    device = crops.device
    found: list[tuple[float, bool]] = []
    for last in (True, False):
        try:
            copied = copy.deepcopy(net).train()
            copied.to(memory_format=torch.channels_last if last else torch.contiguous_format)
            optimizer = optimizer_of(copied)
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            warm, timed = (_WARM, _TIMED) if device.type == "cuda" else (0, 1)
            begun = time.perf_counter()
            batches = crops.epoch(0)
            for number in range(warm + timed):
                if number == warm:
                    _wait(device)
                    begun = time.perf_counter()
                x, labels = next(batches)
                _step(copied, optimizer, x, labels, recipe)
            _wait(device)
            found.append(((time.perf_counter() - begun) / timed, last))
        except StopIteration:  # an epoch of few steps
            found.append(((time.perf_counter() - begun) / timed, last))
        except RuntimeError as error:
            print(f"  {'channels last' if last else 'channels first'} does not train: {error}", flush=True)
    if not found:
        raise RuntimeError("the network trains in no memory format.")
    seconds, last = min(found)
    return last, seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
