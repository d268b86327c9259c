"""The layers of a model as CFDP sees them: which channels go together, and which layers were selected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from spectrim.errors import DataError, OrderError, UnsupportedError
from spectrim.nn.component import components
from spectrim.surgery import sites
from spectrim.surgery.channels import Group, groups
from spectrim.surgery.plan import Skipped
from spectrim.surgery.sites import Site, Where


@dataclass(frozen=True, eq=False)
class Layers:
    """What there is to decide on.

    Attributes:
        groups: Of channels that go together.
        left: Layers that are in no group, with the reason; also those that were not selected.
        chosen: The names of the selected tensors.
    """

    groups: Sequence[Group]
    left: Mapping[str, str]
    chosen: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, first: Tensor, where: Where) -> "Layers":
        """Watch the model run on the first image.

        Args:
            model: To cut.
            first: The first batch.
            where: Which layers may lose channels.

        Raises:
            SiteError: ``where`` matches nothing.
            DataError: The batch does not go through the model.
        """
        try:
            found, left = groups(model, [first[:1]])
        except UnsupportedError as error:
            raise DataError(f"calibration batch 0 of shape {tuple(first.shape)}: {error}") from error
        reasons = {each.path: each.reason for each in left}
        every = [path for group in found for path in group.writers] + list(reasons)
        chosen = sites.selected([site_of(model, path) for path in every], where, model=model)
        reasons = {path: reason if site_of(model, path).name in chosen else "left alone by where"
                   for path, reason in reasons.items()}  # fmt: skip
        return cls(found, reasons, frozenset(chosen))

    def outsiders(self, model: nn.Module, group: Group) -> list[str]:
        """The layers of a group that were not selected."""
        return [path for path in group.writers if site_of(model, path).name not in self.chosen]


def site_of(model: nn.Module, path: str) -> Site:
    """The tensor that a layer is selected by."""
    module = model.get_submodule(path)
    return Site(path, "source" if "source" in module._buffers else "weight", module)  # noqa: SLF001 - plain tensors


def in_order(model: nn.Module, skipped: Mapping[str, str]) -> tuple[Skipped, ...]:
    """Layers that stay, in the order of the model's modules."""
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    rows: Iterable[Skipped] = (Skipped(*item) for item in skipped.items())
    return tuple(sorted(rows, key=lambda row: order[row.site]))


def check_order(model: nn.Module) -> None:
    """Channels go before anything finer.

    Raises:
        OrderError: The model already carries codes or swapped layers.
    """
    if codes := sites.coded(model):
        raise OrderError(
            f"CFDP cuts channels, but {len(codes)} tensors are already coded (first: {codes[0].site!r}, "
            f"{codes[0].codec.kind}). Cut first and code last, or decode with spectrim.finalize_(model)."
        )
    if present := list(components(model)):
        raise OrderError(
            f"CFDP cuts channels, but {len(present)} modules are already swapped (first: {present[0][0]!r}, "
            f"{present[0][1].kind}). Cut first, swap and code after that."
        )
