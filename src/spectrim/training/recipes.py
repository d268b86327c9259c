"""The cards: what is known to work for a network, and the published recipes by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from spectrim.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """The two parts of a job."""

    dense: Recipe
    compressed: Recipe


_CIFAR = Recipe(
    epochs=500,
    batch_size=256,
    optimizer="sgd",
    lr=0.01,
    warmup=0.0,
    decay="step",
    milestones=(0.1, 0.2, 0.4, 0.6, 0.8),
    weight_decay=5e-3,
    decayed="all",
    nesterov=False,
    clip=None,
    augmentation="crop-flip",
)
_IMAGENET = Recipe(
    epochs=90,
    batch_size=256,
    optimizer="sgd",
    lr=0.1,
    warmup=5 / 90,
    weight_decay=1e-4,
    decayed="all",
    nesterov=False,
    label_smoothing=0.1,
    clip=None,
    augmentation="resized-crop",
)

CARDS: Mapping[str, Recipe] = MappingProxyType(
    {
        "short": Recipe(epochs=30, batch_size=128, optimizer="sgd", lr=0.02, weight_decay=5e-4, clip=None),
        "short-adamw": Recipe(epochs=30, batch_size=128, lr=5e-4, warmup=0.1, weight_decay=0.05, label_smoothing=0.1),
        "official": _CIFAR,  # milestones at 50, 100, 200, 300 and 400 epochs
        "hrankplus": replace(_CIFAR, epochs=150, milestones=(1 / 3, 2 / 3), weight_decay=5e-4),
        "imagenet": replace(_IMAGENET, decay="step", milestones=(1 / 3, 2 / 3, 8 / 9)),  # 30, 60 and 80 epochs
        "imagenet-cosine": _IMAGENET,
    }
)
"""How a compressed network may train, by name.

``official`` and ``hrankplus`` are the defaults of two released programs for CIFAR-10, those of CFDP and of its ancestor;
``imagenet`` and ``imagenet-cosine`` are what both have for ImageNet. The releases' SGD is without Nesterov's momentum and
decays every parameter. ``short`` and ``short-adamw`` are this project's.
"""

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
CUTTING = ("cfdp",)
"""Methods that leave an ordinary smaller network: nothing moves while it trains, so it is fine-tuned like one."""

REPAIRED = (*CUTTING, "pointwise-pruning")
"""Methods after which the weights that are left can be fitted anew, in closed form, to what the layers wrote before."""

_REBUILDING = 0.4
"""Share of the epochs over which filters are rebuilt from others; then what became of them trains on."""


def recipes_for(model: str, method: str, card: str | None = None) -> Recipes:
    """What is known to work for a network and a method; the card of small convolutional networks where nothing is.

    Args:
        model: Name of the network.
        method: Name of the method.
        card: One of :data:`CARDS`, for the compressed network.

    Raises:
        ValueError: There is no such card.

    >>> recipes_for("lenet5", "frequency-regularization").compressed.optimizer
    'adamw'
    >>> recipes_for("lenet5", "cfdp") == recipes_for("lenet5", "cfdp", "short")
    True
    """
    attentive = any(word in model for word in ("vit", "deit", "swin"))
    known = _OWN.get(model, _TRANSFORMER if attentive else _CONVOLUTIONAL)
    if card is None and method in CUTTING:
        card = "short-adamw" if attentive else "short"
    if card is None and method == "reconstructed-filters":
        tuned = CARDS["short-adamw" if attentive else "short"]
        return replace(known, compressed=replace(tuned, anneal=_REBUILDING))
    if card is None:
        return known
    if card not in CARDS:
        raise ValueError(f"there is no recipe {card!r}. There are {', '.join(CARDS)}.")
    return replace(known, compressed=CARDS[card])
