"""What a model costs with fewer channels: counted once, multiplied out for any widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias

from torch import Tensor, nn

from spectrim.measure.compute import macs_report
from spectrim.surgery.layers import rule_of
from spectrim.surgery.sites import dotted, walk

Gone: TypeAlias = Mapping[str, Mapping[int, int]]
"""How many indices go, of which dimension of which tensor (by dotted name)."""


@dataclass(frozen=True)
class Costs:
    """Parameters and multiply-accumulates of a model as functions of the sizes of its tensors.

    A convolution or linear layer uses each of its weights equally often: as often as it has positions. Cutting channels
    changes the weights and not the positions, so one count of the whole model tells every narrower one's. (Where a forward
    multiplies activations with each other, or carries channels along an axis of positions, a cut saves more than this says.)

    Attributes:
        shapes: Of every parameter; of one with several names, under each.
        names: Of the parameters, each once.
        positions: How often each weight is used in one forward pass, by the name of the tensor; None where not counted.
        fixed: Multiply-accumulates that no such layer makes.
    """

    shapes: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...]
    positions: Mapping[str, int] | None
    fixed: int

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor | None) -> Self:
        """Count a model once.

        Args:
            model: Is not changed.
            inputs: Of one forward pass; None counts parameters only.

        Raises:
            UnsupportedError: See :func:`spectrim.measure.macs`.

        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
        >>> costs = Costs.of(net, Tensor(1, 3, 6, 6))
        >>> costs.parameters(), costs.parameters({"0.weight": {0: 2}, "0.bias": {0: 2}, "1.weight": {1: 2}})
        (260, 196)
        >>> costs.macs(), costs.macs({"0.weight": {0: 2}, "0.bias": {0: 2}, "1.weight": {1: 2}})
        (3968, 2976)
        """
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
        names = tuple(name for name, _ in model.named_parameters())
        if inputs is None:
            return cls(shapes, names, None, 0)
        report = macs_report(model, inputs)
        positions, known = {}, 0
        for path, module in walk(model):
            rule = rule_of(module)
            weight = module._parameters.get("weight")  # noqa: SLF001 - a property would be a weight that is made anew
            if rule is None or weight is None or not weight.numel() or not rule.inputs(module):
                continue
            count = report.by_module.get(path, 0)
            if count and count % weight.numel() == 0:
                positions[dotted(path, "weight")] = count // weight.numel()
                known += count
        return cls(shapes, names, positions, report.total - known)

    def parameters(self, gone: Gone | None = None) -> int:
        """Parameters that are left."""
        return sum(self._numel(name, gone) for name in self.names)

    def macs(self, gone: Gone | None = None) -> int:
        """Multiply-accumulates that are left."""
        positions = self.positions or {}
        return self.fixed + sum(count * self._numel(name, gone) for name, count in positions.items())

    def _numel(self, name: str, gone: Gone | None) -> int:
        less = (gone or {}).get(name, {})
        numel = 1
        for dim, side in enumerate(self.shapes[name]):
            numel *= side - less.get(dim, 0)
        return numel
