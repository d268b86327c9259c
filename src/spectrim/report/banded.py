"""Which low frequencies pointwise layers read: a row for each that was cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor, nn

from spectrim.errors import ArtifactError
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.component import components
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.report import units

KINDS = frozenset({BandedPointwiseConv2d.kind, GroupedBandsConv2d.kind, FlatBandsConv2d.kind})


@dataclass(frozen=True, kw_only=True)
class Banded:
    """The bands of one layer.

    Attributes:
        site: Dotted name of the layer.
        block: Height and width of a block.
        kept: How many coefficients each input channel keeps; of a layer whose channels are sorted, in that order.
    """

    site: str
    block: tuple[int, int]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, site: str, spec: Mapping[str, Any], kept: Tensor | None) -> "Banded":
        """From what a layer, or a file, says.

        Args:
            site: Dotted name of the layer.
            spec: Of the component.
            kept: Of a layer that trains; the others have it in the spec.

        Raises:
            ValueError: They are not those of a layer.
        """
        high, wide = spec["block"]
        counts = [count for size, count in spec["groups"] for _ in range(size)] if kept is None else kept.tolist()
        if len(counts) != spec["in"] or not all(1 <= count <= high * wide for count in counts):
            raise ValueError(f"{len(counts)} bands for {spec['in']} channels")
        return cls(site=site, block=(high, wide), kept=tuple(counts))

    @property
    def share(self) -> float:
        """The fraction of the coefficients that is kept."""
        return sum(self.kept) / len(self.kept) / (self.block[0] * self.block[1])

    def __str__(self) -> str:
        """One line.

        >>> print(Banded(site="conv", block=(2, 2), kept=(1, 1, 4)))
        conv  50 % of the coefficients of 2 x 2 blocks, 1 to 4 in each of 3 channels, half of them at most 1
        """
        return (
            f"{self.site}  {units.percent(self.share)} of the coefficients of {self.block[0]} x {self.block[1]} blocks, "
            f"{min(self.kept)} to {max(self.kept)} in each of {len(self.kept)} channels, half of them at most {median(self.kept):g}"
        )

    def to_json(self) -> dict[str, Any]:
        """The attributes."""
        return {"site": self.site, "block": list(self.block), "kept": list(self.kept)}


def banded_layers(model: nn.Module) -> tuple[Banded, ...]:
    """Those of a live model."""
    return tuple(
        Banded.of(path, each.spec(), each.kept if isinstance(each, BandedPointwiseConv2d) else None)
        for path, each in components(model)
        if isinstance(each, BandedPointwiseConv2d | GroupedBandsConv2d | FlatBandsConv2d)
    )


def banded_parts(specs: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> tuple[Banded, ...]:
    """Those of a file.

    Args:
        specs: Of its layers of these kinds, by dotted name.
        tensors: Of the file, by dotted name.

    Raises:
        ArtifactError: They do not fit each other; names the layer.
    """
    found = []
    for path, spec in specs.items():
        try:
            kept = None if "groups" in spec else tensors[f"{path}.kept" if path else "kept"]
            found.append(Banded.of(path, spec, kept))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"the layer {path!r}: what it keeps of its input cannot be read ({error}). The file is damaged; get it again."
            ) from error
    return tuple(found)
