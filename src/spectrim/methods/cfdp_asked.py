"""What was asked of each group of channels: how many of its units may stay, and why all of them do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from spectrim.errors import SiteError
from spectrim.methods.cfdp_layers import Layers, site_of
from spectrim.methods.cfdp_widths import kept_units, widths
from spectrim.surgery import sites
from spectrim.surgery.channels import Group


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Widths that were asked for.

    Attributes:
        keeps: The fraction that stays, by glob; the first match counts.
        target: In its place, a target for the whole network.
        round_to: Widths are multiples of it.
        least: Under a target, the fraction that stays in any case.
        original: How many units each group had before earlier rounds.
    """

    keeps: Mapping[str, float]
    target: str | None
    round_to: int
    least: float
    original: Mapping[str, int]

    def check(self, model: nn.Module, layers: Layers) -> None:
        """Refuse fractions that fit no layer, and those that leave a layer nothing.

        Args:
            model: To cut.
            layers: Of it.

        Raises:
            SiteError: No glob matches any group.
            ValueError: A selected group would lose all of its channels.
        """
        if self.target is not None or not layers.groups:
            return
        known = [(group, keep) for group in layers.groups if (keep := self.keep_of(model, group)) is not None]
        if not known:
            raise SiteError(self._nothing(model, layers))
        empty = [(group, keep) for group, keep in known if self._leaves_none(group, keep)]
        empty = [(group, keep) for group, keep in empty if not layers.outsiders(model, group)]
        if empty:
            raise ValueError(self._empty(empty))

    def rungs(self, model: nn.Module, group: Group, layers: Layers) -> tuple[tuple[int, ...], str]:
        """How many units of a group may stay, from all down, none if it is not to be looked at; and why it is left alone."""
        if out := layers.outsiders(model, group):
            others = f", together with {out[0]!r}" if len(group.writers) > 1 else ""
            return (), f"left alone by where{others}"
        of, every = self.original.get(group.path), len(group.units)
        if self.target is not None:
            rungs = widths(group, self.least, self.round_to, of=of)
            few = f"has {group.width} channels, and no smaller width that round_to={self.round_to} and least={self.least:g} allow"
            return rungs, "" if len(rungs) > 1 else few
        keep = self.keep_of(model, group)
        if keep is None:
            return (every,), "no pattern of keep matches"
        kept = kept_units(group, keep, self.round_to, of=of)
        if kept == every:
            return (every,), f"keep={keep:g} leaves all of its {group.width} channels"
        return (every, kept), ""

    def keep_of(self, model: nn.Module, group: Group) -> float | None:
        """The fraction of the first glob that matches one of the layers that write the group."""
        members = [site_of(model, path) for path in group.writers]
        return next(
            (keep for glob, keep in self.keeps.items() if any(sites.matches(site, glob) for site in members)), None
        )

    def _leaves_none(self, group: Group, keep: float) -> bool:
        units = self.original.get(group.path, len(group.units))
        less = kept_units(group, keep, self.round_to, of=units) < len(group.units)
        return less and math.floor(units * keep * (1 + 1e-9)) < 1

    def _nothing(self, model: nn.Module, layers: Layers) -> str:
        globs = list(self.keeps)
        names = [path for group in layers.groups for path in group.writers]
        nearest = sites.nearest_names(globs[0], names) or names[:3]
        more = f" and {len(globs) - 3} more" if len(globs) > 3 else ""
        return (
            f"keep={{{', '.join(f'{glob!r}: {self.keeps[glob]:g}' for glob in globs[:3])}}}{more} matches none of the "
            f"{len(names)} layers of {type(model).__name__} that write channels. Nearest: {', '.join(map(repr, nearest))}."
        )

    def _empty(self, empty: list[tuple[Group, float]]) -> str:
        group, keep = min(empty, key=lambda each: self.original.get(each[0].path, len(each[0].units)))
        units = self.original.get(group.path, len(group.units))
        what = (
            "channels" if units == group.width or group.path in self.original else f"units (of {group.width} channels)"
        )
        others = f", and of {len(empty) - 1} other groups" if len(empty) > 1 else ""
        least = math.ceil(1000 / units) / 1000
        return (
            f"keep={keep:g} leaves none of the {units} {what} of {group.path!r}{others}. Ask for keep={least:g} or more, give "
            f"narrow layers a fraction of their own, keep={{{group.path!r}: {least:g}, '*': {keep:g}}}, or leave them out, "
            f"where='!{group.path}'."
        )
