"""How to train, as data: what a person would write on a card."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from spectrim import schedules
from spectrim.training.source import Augmentation


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One phase of training.

    Attributes:
        epochs: Passes over the training images; 0 skips the phase.
        batch_size: Images per step, over all processes together.
        optimizer: ``adamw`` or ``sgd`` (Nesterov).
        lr: Highest learning rate.
        warmup: Share of the steps on which the learning rate rises from 0.
        decay: How it falls afterwards: along half a cosine to 0, or not at all.
        weight_decay: Of the optimizer; applies to parameters of two axes or more.
        momentum: Of SGD; Adam's first beta.
        label_smoothing: Of the cross entropy.
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
    decay: Literal["cosine", "none"] = "cosine"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    label_smoothing: float = 0.0
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

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        >>> recipe = Recipe(epochs=1, lr=1.0, warmup=0.1)
        >>> [round(recipe.rate(step, 100), 3) for step in (0, 9, 10, 55, 99)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.decay == "none":
            return self.lr
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


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """The two phases of a job."""

    dense: Recipe
    compressed: Recipe


_SMALL = Recipes(
    dense=Recipe(epochs=20, lr=2e-3),
    # Few coefficients must move far, hence the rate; most of the time goes into tuning what is left.
    compressed=Recipe(epochs=30, lr=3e-2, weight_decay=0.0, anneal=0.4),
)
_CONVOLUTIONAL = Recipes(
    dense=Recipe(
        epochs=30, batch_size=128, optimizer="sgd", lr=0.1, weight_decay=5e-4, label_smoothing=0.05, clip=None
    ),
    compressed=Recipe(epochs=30, batch_size=128, lr=3e-3, weight_decay=0.0),
)
_TRANSFORMER = Recipes(
    dense=Recipe(epochs=60, batch_size=128, lr=5e-4, warmup=0.1, weight_decay=0.05, label_smoothing=0.1),
    compressed=Recipe(epochs=60, batch_size=128, lr=1e-3, warmup=0.1, weight_decay=0.0, label_smoothing=0.1),
)
_OWN: Mapping[str, Recipes] = MappingProxyType(
    {
        "lenet5": _SMALL,
        "unet": replace(
            _SMALL, dense=replace(_SMALL.dense, batch_size=8), compressed=replace(_SMALL.compressed, batch_size=8)
        ),
        "vit": _TRANSFORMER,
    }
)


def recipes_for(model: str) -> Recipes:
    """What is known to work for a network; the card of small convolutional networks where nothing is.

    >>> recipes_for("lenet5").dense.optimizer, recipes_for("timm:vit_tiny_patch16_224").dense.optimizer
    ('adamw', 'adamw')
    """
    if model in _OWN:
        return _OWN[model]
    return _TRANSFORMER if any(word in model for word in ("vit", "deit", "swin")) else _CONVOLUTIONAL
