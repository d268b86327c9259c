"""What a plan says of the layers that are cut, with how their bands are learned from there on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from spectrim.methods.pointwise_cuttable import Cuttable
from spectrim.methods.pointwise_time import Pace
from spectrim.nn.component import Spec
from spectrim.nn.learning import Learning

Weigh = Literal["macs", "time", "count"]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the bands of all layers are learned together.

    Attributes:
        asked: The share that was asked for, of the multiplications; None where a target was.
        weigh: What a kept coefficient costs.
        strength, rounds, levels: As of :class:`spectrim.nn.Learning`.
    """

    asked: float | None
    weigh: Weigh
    strength: float
    rounds: int
    levels: int

    def learnings(
        self,
        layers: Mapping[str, Cuttable],
        bands: Mapping[str, Tensor],
        paces: Mapping[str, Pace],
        tied: Mapping[str, str],
    ) -> dict[str, Learning]:
        """For each layer that is cut: its part of the costs of all, and what all have to come back to.

        Args:
            layers: That can be cut.
            bands: Of those that are.
            paces: What was measured of them, where time is what a coefficient costs.
            tied: Names of the streams that some of them share.
        """
        weights = {path: self._weight(layers[path], paces.get(path)) for path in bands}
        total = sum(layers[path].channels * weight for path, weight in weights.items())
        keep = self._goal(layers, bands, weights)
        return {
            path: Learning(
                cost=weight / total,
                keep=keep,
                strength=float(self.strength),
                rounds=self.rounds,
                levels=self.levels,
                tied=tied.get(path),
            )
            for path, weight in weights.items()
        }

    def _weight(self, layer: Cuttable, measured: Pace | None) -> float:
        """What one channel of a layer costs where nothing of it is cut, in a unit of its own."""
        if measured is not None and self.weigh == "time":
            return measured.slope / layer.channels
        return float(layer.cost) if self.weigh == "macs" else 1.0

    def _goal(
        self, layers: Mapping[str, Cuttable], bands: Mapping[str, Tensor], weights: Mapping[str, float]
    ) -> float | None:
        """The share of the costs that learning has to come back to; None where nothing was asked for."""
        if self.asked == 1:
            return None
        if self.asked is not None and self.weigh == "macs":
            return float(self.asked)
        kept = sum(float(bands[path].sum()) / layers[path].frequencies * weight for path, weight in weights.items())
        return kept / sum(layers[path].channels * weight for path, weight in weights.items())


def spec_of(layer: Cuttable, bands: Tensor, order: str, learning: Learning | None) -> Spec:
    """What builds the banded convolution in the place of a layer, and notes for the reader of the plan."""
    spec: Spec = {
        "in": layer.channels,
        "out": layer.outputs,
        "block": list(layer.block),
        "bias": layer.bias,
        "kept": bands.tolist(),
        "macs": [layer.dense, *layer.multiplications(bands)],
    }
    if layer.calls > 1:
        spec["calls"] = layer.calls
    if order != "zigzag":
        spec["order"] = [*layer.order] if order == "energy" else order
    if layer.stride != (1, 1):
        spec["stride"] = list(layer.stride)
    if layer.last:
        spec["last"] = True
    return spec if learning is None else spec | {"learning": learning.to_json()}
