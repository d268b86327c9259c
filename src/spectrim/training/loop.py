"""One phase of training, as a generator of steps: whoever runs it decides what happens between two of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import spectrim
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.training.augmentation import augmented
from spectrim.training.distillation import distilled
from spectrim.training.optimizer import check_optimizer
from spectrim.training.randomness import mixed, seed_everything, shuffled
from spectrim.training.recipe import Recipe
from spectrim.training.source import Preprocessing, Source


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What one phase of a job trains with.

    Attributes:
        number: 0 for the dense network, from 1 on the rounds of the compressed one; with the seed, it starts the random
            numbers.
        recipe: How.
        source: On which images.
        prepare: From pixels to what the network sees.
        seed: Of the job.
        rounds: Of the job.
        before: Steps of the compressed network in earlier rounds.
    """

    number: int
    recipe: Recipe
    source: Source
    prepare: Preprocessing
    seed: int
    rounds: int = 1
    before: int = 0

    @property
    def part(self) -> Literal["dense", "compressed"]:
        """Which network trains."""
        return "compressed" if self.number else "dense"

    @property
    def name(self) -> str:
        """For people."""
        return self.part if self.number == 0 or self.rounds == 1 else f"round {self.number} of {self.rounds}"

    @property
    def batch_size(self) -> int:
        """Images per step; all of them where there are fewer."""
        return min(self.recipe.batch_size, len(self.source.train))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training images; what is left over waits for the next epoch's order."""
        return len(self.source.train) // self.batch_size

    @property
    def steps(self) -> int:
        """All steps."""
        return self.recipe.epochs * self.steps_per_epoch

    def rows(self, step: int) -> Tensor:
        """Which images a step sees, in all processes together."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = shuffled(len(self.source.train), self.seed, self.number, epoch)
        return order[place * self.batch_size : (place + 1) * self.batch_size]


@dataclass(frozen=True)
class Step:
    """One optimizer step that has been made.

    Attributes:
        done: How many there are now.
        loss: Of this process' share of the batch, penalty included, detached.
        lr: Learning rate.
    """

    done: int
    loss: Tensor
    lr: float


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    *,
    accelerator: Accelerator,
    start: int = 0,
    teacher: nn.Module | None = None,
) -> Iterator[Step]:
    """Make the steps of a phase, one each time that the next is asked for.

    Every step depends on the model, the optimizer's memory, the seed and its own number, and on nothing else, so a
    phase that is taken up at ``start`` gives the numbers of one that never stopped. The batch is shared among the
    processes. Where the model has components, their schedules move before each step, and their penalty joins the loss.

    Args:
        model: On the accelerator's device; in training mode afterwards.
        optimizer: Over the model's parameters.
        phase: What to train with.
        accelerator: Says where, with whom, and in which precision.
        start: Steps that are already made.
        teacher: The dense network, in evaluation mode, where the recipe distills.

    Yields:
        Each step after it is made.

    Raises:
        SpectrimError: The optimizer trains something else than the model.
        ValueError: The batch cannot be shared equally.
    """
    check_optimizer(model, optimizer)
    processes, rank = accelerator.num_processes, accelerator.process_index
    if phase.batch_size % processes:
        raise ValueError(f"a batch of {phase.batch_size} cannot be shared equally by {processes} processes.")
    # accelerate's prepare() would put a forward of its own into the model; this is what it wraps around it.
    network = shared(model) if processes > 1 else model
    ready = accelerator.prepare_optimizer(optimizer)
    recipe, total = phase.recipe, phase.steps
    augmentation = phase.source.augmentation if recipe.augmentation is None else recipe.augmentation
    generator = torch.Generator(accelerator.device)
    parameters = list(model.parameters())
    model.train()
    for step in range(start, total):
        draw = (phase.seed, phase.number, step, rank)
        seed_everything(*draw)
        generator.manual_seed(mixed(*draw, 1))
        spectrim.anneal_(model, recipe.progress(step, total))
        rate = recipe.rate(step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, labels = phase.source.train.batch(phase.rows(step)[rank::processes])
        pixels, labels = pixels.to(accelerator.device), labels.to(accelerator.device)
        pixels, labels = augmented(pixels, labels, augmentation, generator=generator)
        with accelerator.autocast():
            scores = network(phase.prepare(pixels))
            taught = None if teacher is None else _said(teacher, phase.prepare(pixels))
        loss = _loss(scores.float(), labels, taught, recipe) + spectrim.penalty(model)
        accelerator.backward(loss)
        if recipe.clip is not None:
            accelerator.unscale_gradients(ready)
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        ready.step()
        ready.zero_grad()
        yield Step(step + 1, loss.detach(), rate)


def _said(teacher: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = teacher(images)
    return scores.float()


def _loss(scores: Tensor, labels: Tensor, taught: Tensor | None, recipe: Recipe) -> Tensor:
    """Cross-entropy, or some of it beside what the teacher said."""
    if taught is None or recipe.distill is None:
        return F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    return distilled(
        scores,
        taught,
        labels,
        share=recipe.distill,
        temperature=recipe.temperature,
        label_smoothing=recipe.label_smoothing,
    )


def check_loss(loss: float, step: int, lr: float) -> None:
    """See that a loss is finite.

    Raises:
        SpectrimError: It is not.
    """
    if not math.isfinite(loss):
        raise spectrim.SpectrimError(
            f"the loss is {loss} after step {step}, at a learning rate of {lr:.2g}. Lower --lr."
        )


def shared(model: nn.Module) -> DistributedDataParallel:
    """A model for several processes; learned bands and the weights behind them train in turn, so some get no gradient."""
    turns = any(isinstance(each, BandedPointwiseConv2d) and each.learning is not None for each in model.modules())
    return DistributedDataParallel(model, find_unused_parameters=turns)
