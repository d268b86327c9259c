"""CFDP: the channels whose feature maps say least in the frequency domain are removed."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spectrim.calibration import Calibration, images_of
from spectrim.errors import DataError, OrderError, UnsupportedError
from spectrim.methods.cfdp_rates import RATES
from spectrim.methods.cfdp_scores import LAMBDA, SCORES
from spectrim.methods.features import mean_scores
from spectrim.methods.method import Method
from spectrim.nn.component import components
from spectrim.surgery import sites
from spectrim.surgery.channels import Group, cut, groups
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.prune import PruneChannels, removed
from spectrim.surgery.sites import Site, Where
from spectrim.surgery.trial import not_followed


@dataclass(frozen=True)
class CFDP(Method, name="cfdp"):
    """Remove whole channels, those with the lowest scores of their feature maps, and everything that follows from it.

    What is left is an ordinary smaller network of the same class; fine-tune it. Channels that have to go together (behind a
    residual addition, through a depthwise convolution) are scored together: the scores at every layer that reads them,
    each divided by its mean there. The score looks at what the readers see: after norm, activation and addition.

    Args:
        keep: Fraction of the channels of each group that stays, in (0, 1]; or one per glob on the names of the layers that
            write them, first match wins (groups that match none stay whole); or the name of a network of the paper
            (``vgg16_bn``, ``resnet56``, ``resnet110``, ``googlenet``, ``resnet50``) for its widths, with ``round_to=1``.
        score: ``ortho`` (orthonormal 4x4 transforms), ``paper`` (equations 4 to 12), ``official`` (what the authors'
            release computes), or a control: ``l1``, ``l2`` (norms of the maps), ``random``.
        round_to: Widths become multiples of this where they are larger; 1 leaves them at ``floor(keep * width)``. Runtimes
            are fast at multiples of 8.
        sigma: With ``paper``, the Gaussian's standard deviation in pixels, which the paper does not say; 10 in its code.
        weight: λ of the scores.
        seed: Of ``random``.

    Raises:
        ValueError: A hyper-parameter is out of range.

    References:
        Khaki and Luo 2023, "CFDP: Common Frequency Domain Pruning", CVPRW, arXiv 2306.04147.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    ... )
    >>> images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> print(CFDP(keep=0.5).plan(net, calibration=images))
    CFDP(keep=0.5) on Sequential: 2 edits, 1 skipped, 10,218 → 3,962 parameters
      0  keep 8 of 16 channels; ortho scores below ... of the mean go; saves 2,528 parameters
      2  keep 16 of 32 channels; ortho scores below ... of the mean go; saves 4,880 parameters
      5  skipped: is the output of the model
    """

    keep: float | Mapping[str, float] | str = 0.5
    score: str = "ortho"
    round_to: int = 8
    sigma: float = 10.0
    weight: float = LAMBDA
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.keep, str) and self.keep not in RATES:
            raise ValueError(f"keep must be a number, a mapping or one of {', '.join(RATES)}, got {self.keep!r}.")
        for keep in self._keeps().values():
            if isinstance(keep, bool) or not isinstance(keep, int | float):
                raise TypeError(f"keep must be a number in (0, 1] or a mapping from glob to number, got {keep!r}.")
            if not 0 < keep <= 1:
                hint = f" For {keep:g} percent, pass keep={keep / 100:g}." if 1 < keep <= 100 else ""
                raise ValueError(f"keep must lie in (0, 1], got {keep:g}.{hint}")
        if self.score not in (*SCORES, "random"):
            raise ValueError(f"score must be one of {', '.join((*SCORES, 'random'))}, got {self.score!r}.")
        if type(self.round_to) is not int or self.round_to < 1:
            raise ValueError(f"round_to must be a whole number of at least 1, got {self.round_to!r}.")
        if not self.sigma > 0 or not math.isfinite(self.weight) or self.weight < 0:
            raise ValueError(f"sigma must be positive and weight not negative, got {self.sigma!r} and {self.weight!r}.")

    def __repr__(self) -> str:
        """As it would be written: only what differs from the defaults, and ``keep``."""
        fields = {name: value for name, value in vars(self).items() if value != getattr(type(self), name)}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in ({'keep': self.keep} | fields).items())})"

    def _keeps(self) -> Mapping[str, float]:
        if isinstance(self.keep, str):
            return RATES[self.keep]
        return self.keep if isinstance(self.keep, Mapping) else {"*": self.keep}

    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """One edit per group of channels; see :meth:`Method.plan`.

        Args:
            model: To cut.
            where: Which layers lose output channels. A group goes only where all layers that write it are selected.
            calibration: Batches of images, or one tensor of them; of a batch that is a tuple the first entry is taken.

        Raises:
            SiteError: ``where`` matches nothing.
            OrderError: The model already carries codes or swapped layers.
            ValueError: There is no calibration.
            DataError: The calibration is empty, holds NaN, or does not go through the model.
        """
        _check_order(model)
        batches = images_of(calibration, model, who="CFDP")
        first = next(batches)
        try:
            found, left = groups(model, [first[:1]])
        except UnsupportedError as error:
            raise DataError(f"calibration batch 0 of shape {tuple(first.shape)}: {error}") from error
        skipped = {each.path: each.reason for each in left}
        layers = [path for group in found for path in group.writers] + list(skipped)
        chosen = sites.selected([_site(model, path) for path in layers], where, model=model)
        skipped = {path: "left alone by where" if _site(model, path).name not in chosen else reason
                   for path, reason in skipped.items()}  # fmt: skip
        scored: list[tuple[Group, int]] = []
        for group in found:
            reason, kept = self._kept(model, group, chosen)
            if reason is None:
                scored.append((group, kept))
            else:
                skipped |= dict.fromkeys(group.writers, reason)
        scores = self._scores(model, [group for group, _ in scored], itertools.chain([first], batches))
        edits = []
        for group, kept in scored:
            if (values := scores[group.path]) is None:
                skipped |= dict.fromkeys(group.writers, "what reads its channels is not called as a layer")
            else:
                edits.append(self._edit(model, group, values, kept))
        blamed = not_followed(model, edits, [first[:2]])
        for group, _ in scored:
            if group.path in blamed:
                skipped |= dict.fromkeys(group.writers, blamed[group.path])
        edits = [edit for edit in edits if edit.path not in blamed]
        order = {name: place for place, (name, _) in enumerate(model.named_modules())}
        rows = sorted((Skipped(*item) for item in skipped.items()), key=lambda row: order[row.site])
        before = sum(p.numel() for p in model.parameters())
        return Plan(repr(self), type(model).__name__, tuple(edits), tuple(rows), before, before - saved(model, edits))

    def _kept(self, model: nn.Module, group: Group, chosen: set[str]) -> tuple[str | None, int]:
        """Why a group is left alone, or how many units of it stay."""
        members = [_site(model, path) for path in group.writers]
        if out := [site.path for site in members if site.name not in chosen]:
            return ("left alone by where" if len(members) == 1 else f"left alone by where, together with {out[0]!r}"), 0
        patterns = self._keeps()
        keep = next((patterns[p] for p in patterns if any(sites.matches(site, p) for site in members)), None)
        if keep is None:
            return "no pattern of keep matches", 0
        kept = kept_units(group, keep, self.round_to)
        if kept == len(group.units):
            return f"keep={keep:g} leaves all of its {group.width} channels", 0
        return None, kept

    def _scores(self, model: nn.Module, scored: Sequence[Group], batches: Iterable[Tensor]) -> dict[str, Tensor | None]:
        if self.score == "random":
            for _ in batches:  # which checks them
                pass
            generator = torch.Generator().manual_seed(self.seed)
            return {g.path: torch.rand(len(g.units), generator=generator, dtype=torch.float64) for g in scored}
        score = SCORES[self.score]

        def of(maps: Tensor) -> Tensor:
            return score(maps, self.sigma, self.weight)

        means = mean_scores(model, {reader.path for group in scored for reader in group.readers}, batches, of)
        return {group.path: _together(group, means) for group in scored}

    def _edit(self, model: nn.Module, group: Group, values: Tensor, kept: int) -> PruneChannels:
        order = values.argsort(stable=True)
        gone = order[: len(group.units) - kept]
        relative = float(values[order[len(gone)]] / values.mean().clamp(min=torch.finfo(values.dtype).tiny))
        note = [f"{self.score} scores below {relative:.2f} of the mean go"]
        if len(group.writers) > 1:
            others = group.writers[1:]
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            note.append(f"with {', '.join(others[:3])}{more}")
        if group.locked[0]:
            note.append(f"{group.locked[0]} cannot go: {group.locked[1]}")
        edit = cut(model, group, gone.tolist())
        note.append(f"saves {saved(model, [edit]):,} parameters")
        return PruneChannels(edit.path, edit.channels, edit.width, edit.cuts, "; ".join(note))


def kept_units(group: Group, keep: float, round_to: int) -> int:
    """How many units of a group stay: ``floor(keep * units)``, then rounded, at least one.

    The floor forgives a rounding error, so that 0.7 of 10 is 7. Rounding is to the nearest multiple of the layer's whole width,
    halves up, and at least one multiple.
    """
    units, locked = len(group.units), group.locked[0]
    kept = max(math.floor(units * keep * (1 + 1e-9)), 1)
    each = max(group.width // (units + locked), 1)
    step = round_to // math.gcd(round_to, each)
    rounded = max((2 * (kept + locked) + step) // (2 * step), 1) * step
    return min(max(rounded - locked, 1), units)


def saved(model: nn.Module, edits: Iterable[PruneChannels]) -> int:
    """How many parameters go with some cuts."""
    parameters = dict(model.named_parameters())
    total = 0
    for name, axes in removed(edits).items():
        if (parameter := parameters.get(name)) is not None:
            shape = list(parameter.shape)
            for dim, indices in axes.items():
                shape[dim] -= len(indices)
            total += parameter.numel() - math.prod(shape)
    return total


def _together(group: Group, means: Mapping[str, Tensor]) -> Tensor | None:
    """One score for each unit: the mean over the readers, each relative to its own mean over the group."""
    total, count = torch.zeros(len(group.units), dtype=torch.float64), torch.zeros(len(group.units))
    known = [reader for reader in group.readers if reader.path in means]
    for reader in known:
        units = torch.tensor(reader.units)
        mine = units >= 0
        values = means[reader.path][mine]
        sums = torch.zeros(len(group.units), dtype=torch.float64).index_add_(0, units[mine], values)
        columns = torch.bincount(units[mine], minlength=len(group.units))
        mean = values.mean()
        total += sums / columns.clamp(min=1) / (mean if mean > 0 else 1)
        count += columns > 0
    return total / count.clamp(min=1) if known else None


def _site(model: nn.Module, path: str) -> Site:
    module = model.get_submodule(path)
    return Site(path, "source" if "source" in module._buffers else "weight", module)  # noqa: SLF001 - plain tensors


def _check_order(model: nn.Module) -> None:
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
