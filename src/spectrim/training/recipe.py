"""How to train, as data: what a person would write on a card."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from spectrim import schedules
from spectrim.training.source import Augmentation


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One phase of training.

    Attributes:
        epochs: Passes over the training images; 0 skips the phase.
        batch_size: Images per step, over all processes together.
        optimizer: ``adamw`` or ``sgd``.
        lr: Highest learning rate.
        warmup: Share of the steps on which the learning rate rises from 0.
        decay: How it falls: along half a cosine to 0 once the warm-up is over, to a tenth at each milestone, or not at all.
        milestones: Where it falls with ``decay="step"``, as shares of all steps: with fewer epochs they move along.
        weight_decay: Of the optimizer.
        decayed: What weight decay pulls on: ``weights``, which are parameters of two axes or more, or ``all`` parameters,
            biases and the scales of norms included.
        momentum: Of SGD; Adam's first beta.
        nesterov: Whether SGD's momentum is Nesterov's.
        label_smoothing: Of the cross entropy, in [0, 1).
        distill: Share of the loss that is the divergence from the dense network, in (0, 1]; 1 reads no labels. None asks no
            teacher.
        temperature: What scores are divided by for that.
        ema: Decay of the exponential moving average that takes the weights' place in the end; the last weights if None.
        clip: Largest norm of the gradient; none if None.
        augmentation: What is done to the training images; what suits the source if None.
        anneal: Share of the steps after which the method's schedules have arrived; the rest is fine-tuning.

    Raises:
        ValueError: A value is out of range.
    """

    epochs: int
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    warmup: float = 0.05
    decay: Literal["cosine", "step", "none"] = "cosine"
    milestones: tuple[float, ...] = ()
    weight_decay: float = 1e-4
    decayed: Literal["weights", "all"] = "weights"
    momentum: float = 0.9
    nesterov: bool = True
    label_smoothing: float = 0.0
    distill: float | None = None
    temperature: float = 5.0
    ema: float | None = None
    clip: float | None = 1.0
    augmentation: Augmentation | None = None
    anneal: float = 0.65

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs must be at least 0, got {self.epochs}.")
        if self.batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {self.batch_size}.")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ValueError(f"the learning rate must be positive, got {self.lr}.")
        if not 0 < self.anneal <= 1:
            raise ValueError(f"anneal must lie in (0, 1], got {self.anneal}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {self.warmup}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"the weight decay must be at least 0, got {self.weight_decay}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label smoothing must lie in [0, 1), got {self.label_smoothing}.")
        if self.distill is not None and not 0 < self.distill <= 1:
            raise ValueError(
                f"the share of what the dense network says must lie in (0, 1], got {self.distill}. Leave it out for the labels alone."
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the temperature must be positive, got {self.temperature}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"the decay of the moving average must lie in (0, 1), got {self.ema}. 0.999 is common.")
        if bool(self.milestones) != (self.decay == "step") or not all(0 < share < 1 for share in self.milestones):
            raise ValueError(
                f"milestones are shares of the steps, in (0, 1), for decay='step'; got {self.milestones} for {self.decay!r}."
            )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        >>> recipe = Recipe(epochs=1, lr=1.0, warmup=0.1)
        >>> [round(recipe.rate(step, 100), 3) for step in (0, 9, 10, 55, 99)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
        >>> recipe = Recipe(epochs=1, lr=1.0, warmup=0.0, decay="step", milestones=(0.5, 0.75))
        >>> [round(recipe.rate(step, 100), 3) for step in (0, 49, 50, 74, 75)]
        [1.0, 1.0, 0.1, 0.1, 0.01]
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.decay != "cosine":
            return self.lr * 0.1 ** sum(step >= round(share * steps) for share in self.milestones)
        return self.lr * (1 - schedules.cosine((step - rising) / max(1, steps - rising)))

    def progress(self, step: int, steps: int) -> float:
        """How far the method's schedules are when a step begins: 1 for the last ``1 - anneal`` of the steps.

        >>> recipe = Recipe(epochs=1, anneal=0.5)
        >>> [recipe.progress(step, 8) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
        """
        return min(1.0, (step + 1) / max(1, round(self.anneal * steps)))

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def shared(self, rounds: int) -> "tuple[Recipe, ...]":
        """The same recipe for each of several rounds, which share its epochs; the last round gets what is left over.

        >>> [each.epochs for each in Recipe(epochs=8).shared(3)]
        [2, 2, 4]
        """
        each = self.epochs // rounds
        return (*[replace(self, epochs=each)] * (rounds - 1), replace(self, epochs=self.epochs - each * (rounds - 1)))
