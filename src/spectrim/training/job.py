"""What ``spectrim compress`` is asked to do, as data: two equal jobs give the same artifact, byte for byte."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spectrim.training.recipe import Recipe
from spectrim.training.recipes import CUTTING, REPAIRED, Recipes, recipes_for
from spectrim.training.reinit import REINIT, Reinit
from spectrim.training.source import NORMALIZATIONS, Normalization

Precision = Literal["no", "bf16", "fp16"]
NumberType = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train or load a dense network, compress it, fine-tune it, measure both.

    Attributes:
        model: Name of the network, see :func:`spectrim.training.models.build`.
        data: Name of the source, see :func:`spectrim.training.sources.open_source`.
        method: Name of the method.
        settings: Its hyper-parameters, by name.
        where: Which sites, as globs; all candidates if None.
        rounds: In how many steps the target is reached; the compressed network trains after each, all share the epochs.
        reinit: What the cut network starts from: the weights that stayed (``none``), those of convolutions alone with
            everything else fresh (``hrankplus``), or fresh weights (``all``).
        untrained: Cut the network as it is initialised, and train what is left from fresh weights, as a dense network would be.
        repair: Whether a cut network is fitted to the one before the cut, without training; if None, where there is a cut
            that leaves weights.
        weights: File with pretrained weights; the dense network is then not trained unless epochs are asked for.
        recipe: Name of the card by which the compressed network trains; what suits network and method if None.
        dense_epochs, epochs: Of the dense and the compressed network; the recipe's if None.
        batch_size, dense_lr: In place of the recipe's, where given.
        lr, weight_decay, label_smoothing, distill, temperature, ema, optimizer, anneal: The same, for the compressed network alone.
        seed: Of everything random.
        precision: In which the forward passes are computed.
        dtype: In which the artifact's numbers are written.
        norms: Whether the artifact's batch norms are exact or folded.
        image_size: Images are scaled to this side; what suits the source if None.
        normalize: By which statistics pixels are scaled.

    Raises:
        ValueError: A value is out of range.
    """

    model: str
    data: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[str, ...] | None = None
    rounds: int = 1
    reinit: Reinit = "none"
    untrained: bool = False
    repair: bool | None = None
    weights: Path | None = None
    recipe: str | None = None
    dense_epochs: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    dense_lr: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    distill: float | None = None
    temperature: float | None = None
    ema: float | None = None
    optimizer: Literal["adamw", "sgd"] | None = None
    anneal: float | None = None
    seed: int = 0
    precision: Precision = "no"
    dtype: NumberType = "float16"
    norms: Literal["exact", "folded"] = "exact"
    image_size: int | None = None
    normalize: Normalization = "data"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"the seed must be at least 0, got {self.seed}.")
        if self.normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize must be one of {', '.join(NORMALIZATIONS)}, got {self.normalize!r}.")
        if self.reinit not in REINIT:
            raise ValueError(f"reinit must be one of {', '.join(REINIT)}, got {self.reinit!r}.")
        epochs = self.recipes().compressed.epochs  # refuses what is out of range
        if self.rounds < 1 or (self.rounds > 1 and epochs < self.rounds):
            raise ValueError(
                f"asked for {self.rounds} rounds of {epochs} epochs together; each round, of at least one, needs an epoch."
            )
        if self.start != "none" and (self.method not in CUTTING or self.rounds > 1):
            raise ValueError(
                f"fresh weights after the cut (--reinit, --untrained) are for one round of {', '.join(CUTTING)}, got "
                f"{self.rounds} of {self.method}. To train another method from scratch, pass --dense-epochs 0."
            )
        if self.untrained and (self.weights is not None or self.dense_epochs):
            raise ValueError(
                "--untrained cuts the network as it is initialised: leave out --weights and --dense-epochs."
            )
        if self.distill is not None and not (self.weights is not None or self.recipes().dense.epochs):
            raise ValueError(
                "--distill learns from the trained dense network, and here there is none: pass --weights or --dense-epochs, "
                "and leave out --untrained."
            )
        if self.temperature is not None and self.distill is None:
            raise ValueError(f"a temperature of {self.temperature:g} is for --distill, which was not given.")
        if self.repair and not self._repairable:
            of = "that learns its bands" if self.settings.get("learn") else "that starts from fresh weights"
            raise ValueError(
                f"a repair (--repair) is for weights that a cut left, of {', '.join(REPAIRED)}; got {self.method}"
                f"{f' {of}' * (self.method in REPAIRED)}. Leave it out."
            )

    @property
    def repairs(self) -> bool:
        """Whether a cut network is repaired."""
        return self._repairable if self.repair is None else self.repair

    @property
    def _repairable(self) -> bool:
        return self.method in REPAIRED and self.start == "none" and not self.settings.get("learn")

    @property
    def start(self) -> Reinit:
        """What the cut network starts from."""
        return "all" if self.untrained and self.reinit == "none" else self.reinit

    def recipes(self) -> Recipes:
        """How both networks train: the cards, and on top what was asked for."""
        card = recipes_for(self.model, self.method, self.recipe)
        dense_epochs = self.dense_epochs
        if self.untrained or (dense_epochs is None and self.weights is not None):
            dense_epochs = 0
        compressed = card.dense if self.untrained and self.recipe is None else card.compressed
        return Recipes(
            dense=_changed(card.dense, epochs=dense_epochs, batch_size=self.batch_size, lr=self.dense_lr),
            compressed=_changed(
                compressed,
                epochs=self.epochs,
                batch_size=self.batch_size,
                lr=self.lr,
                weight_decay=self.weight_decay,
                label_smoothing=self.label_smoothing,
                distill=self.distill,
                temperature=self.temperature,
                ema=self.ema,
                optimizer=self.optimizer,
                anneal=self.anneal,
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """What the artifact depends on, in full; the weights by the name of their file."""
        recipes = self.recipes()
        return {
            "model": self.model,
            "data": self.data,
            "method": self.method,
            "settings": dict(self.settings),
            "where": None if self.where is None else list(self.where),
            "rounds": self.rounds,
            "start": self.start,
            "repair": self.repairs,
            "weights": None if self.weights is None else self.weights.name,
            "recipe": {"dense": recipes.dense.to_json(), "compressed": recipes.compressed.to_json()},
            "seed": self.seed,
            "precision": self.precision,
            "dtype": self.dtype,
            "norms": self.norms,
            "image_size": self.image_size,
            "normalize": self.normalize,
        }


def _changed(recipe: Recipe, **values: Any) -> Recipe:
    return replace(recipe, **{name: value for name, value in values.items() if value is not None})
