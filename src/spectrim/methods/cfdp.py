"""CFDP: the channels whose feature maps say least in the frequency domain are removed."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from spectrim.budget import Target
from spectrim.calibration import Calibration, images_of
from spectrim.errors import UnsupportedError
from spectrim.measure import Costs
from spectrim.methods.cfdp_asked import Asked
from spectrim.methods.cfdp_budget import Settled, counts, saved, settle
from spectrim.methods.cfdp_layers import Layers, check_order, in_order
from spectrim.methods.cfdp_notes import going, staying
from spectrim.methods.cfdp_ranking import drawn, scored
from spectrim.methods.cfdp_rates import fractions
from spectrim.methods.cfdp_rounds import keeps, targets
from spectrim.methods.cfdp_scores import BLOCK, LAMBDA, SCORES
from spectrim.methods.cfdp_widths import Ladder
from spectrim.methods.method import Method
from spectrim.surgery.channels import Group
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.prune import PruneChannels
from spectrim.surgery.ranking import Ranked
from spectrim.surgery.sites import Where

_KEEP = 0.5


@dataclass(frozen=True)
class CFDP(Method, name="cfdp"):
    """Remove whole channels, those with the lowest scores of their feature maps, and everything that follows from it.

    What is left is an ordinary smaller network of the same class; fine-tune it. Channels that have to go together (behind a
    residual addition, through a depthwise convolution) are scored together: the scores at every layer that reads them,
    each divided by its mean there. The score looks at what the readers see: after norm, activation and addition.

    Args:
        keep: Fraction of the channels of each group that stays, in (0, 1]; or one per glob on the names of the layers that
            write them, first match wins (groups that match none stay whole); or the name of a network of the paper
            (``vgg16_bn``, ``resnet56``, ``resnet110``, ``googlenet``, ``resnet50``) for its widths, with ``round_to=1``; or such a name
            and a list of the shares that go, as the released program takes it: ``resnet56:[0.]+[0.3]*29``.
            0.5 where there is no ``target`` either.
        target: In place of ``keep``, what may be left at most: ``macs:0.5``, ``params:0.3``, ``latency:0.7`` as fractions of the
            dense model's, ``macs:45e6``, ``params:100000`` as numbers. One ranking over all groups decides which get narrower.
            Operations are those of one image; time is measured on one, so that it may decide otherwise the next time.
        score: ``ortho`` (orthonormal 4x4 transforms), ``paper`` (equations 4 to 12), ``official`` (what the authors'
            release computes), or a control: ``l1``, ``l2`` (norms of the maps), ``random``.
        round_to: Widths become multiples of this where they are larger; 1 leaves them at ``floor(keep * width)``. Runtimes
            are fast at multiples of 8.
        least: Under a ``target``, the fraction of its channels that each group keeps in any case, in [0, 1]; one multiple of
            ``round_to`` stays too.
        block: Side in pixels of the patches that ``ortho`` and ``paper`` transform; 4 in the paper.
        sigma: With ``paper``, the Gaussian's standard deviation in pixels, which the paper does not say; 10 in its code.
        weight: λ of the scores.
        seed: Of ``random``.
        original: How many channels (or units of several) each group had before earlier rounds, by the first layer that writes it:
            what ``keep`` and ``least`` are fractions of. :meth:`in_rounds` fills it in.

    Raises:
        ValueError: A hyper-parameter is out of range.

    References:
        Khaki and Luo 2023, "CFDP: Common Frequency Domain Pruning", CVPRW, arXiv 2306.04147.

    >>> import torch
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    ... )
    >>> images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> print(CFDP(keep=0.5).plan(net, calibration=images))
    CFDP(keep=0.5) on Sequential: 2 edits, 1 skipped, 10,218 → 3,962 parameters
      0  keep 8 of 16 channels; ortho scores below ... of the mean go; saves 2,528 parameters and 44,640 MACs
      2  keep 16 of 32 channels; ortho scores below ... of the mean go; saves 4,880 parameters and 39,424 MACs
      5  skipped: is the output of the model
    >>> print(str(CFDP(target="params:0.7").plan(net, calibration=images)).splitlines()[0])
    CFDP(target='params:0.7') on Sequential: ... 10,218 → ... parameters; params 0... of dense, asked 0.7
    """

    keep: float | Mapping[str, float] | str | None = None
    target: str | None = None
    score: str = "ortho"
    round_to: int = 8
    least: float = 0.1
    block: int = BLOCK
    sigma: float = 10.0
    weight: float = LAMBDA
    seed: int = 0
    original: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.target is not None:
            raise ValueError(
                f"keep says how much of each group stays and target what is left of the whole: give one of them, got "
                f"keep={self.keep!r} and target={self.target!r}."
            )
        if self.target is not None:
            Target.parse(self.target)
        if isinstance(self.least, bool) or not isinstance(self.least, int | float):
            raise TypeError(f"least must be a number in [0, 1], got {self.least!r}.")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must lie in [0, 1], got {self.least!r}.")
        for keep in self._keeps().values():
            if isinstance(keep, bool) or not isinstance(keep, int | float):
                raise TypeError(f"keep must be a number in (0, 1] or a mapping from glob to number, got {keep!r}.")
            if not 0 < keep <= 1:
                hint = f" For {keep:g} percent, pass keep={keep / 100:g}." if 1 < keep <= 100 else ""
                raise ValueError(f"keep must lie in (0, 1], got {keep:g}.{hint}")
        if self.score not in (*SCORES, "random"):
            raise ValueError(f"score must be one of {', '.join((*SCORES, 'random'))}, got {self.score!r}.")
        for name, value in (("round_to", self.round_to), ("block", self.block)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not self.sigma > 0 or not math.isfinite(self.weight) or self.weight < 0:
            raise ValueError(f"sigma must be positive and weight not negative, got {self.sigma!r} and {self.weight!r}.")

    def __repr__(self) -> str:
        """As it would be written: only what differs from the defaults, and ``keep`` or ``target``; no original widths."""
        fields = {
            name: value
            for name, value in vars(self).items()
            if value != getattr(type(self), name) and name != "original"
        }
        if self.target is None:
            fields = {"keep": self.keep or _KEEP} | fields
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def _keeps(self) -> Mapping[str, float]:
        if isinstance(self.keep, str):
            return fractions(self.keep)
        return self.keep if isinstance(self.keep, Mapping) else {"*": _KEEP if self.keep is None else self.keep}

    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """One edit per group of channels; see :meth:`Method.plan`.

        Args:
            model: To cut.
            where: Which layers lose output channels. A group goes only where all layers that write it are selected.
            calibration: Batches of images, or one tensor of them; of a batch that is a tuple the first entry is taken.

        Raises:
            SiteError: ``where`` matches nothing, or no glob of ``keep`` does.
            OrderError: The model already carries codes or swapped layers.
            ValueError: There is no calibration, ``keep`` leaves a layer nothing, or the target cannot be reached; the message
                says what can.
            UnsupportedError: The operations are a target and cannot be counted, see :func:`spectrim.measure.macs`.
            DataError: The calibration is empty, holds NaN, or does not go through the model.
        """
        decided = self._decide(model, where, calibration)
        savings = saved(model, [edit for _, edit in decided.cuts], decided.costs, decided.image)
        edits = []
        for (ladder, edit), saving in zip(decided.cuts, savings, strict=True):
            kept = decided.settled.kept[edit.path]
            edits.append(replace(edit, note=going(ladder, kept, saving, score=self.score, target=self.target)))
        return Plan(
            repr(self),
            type(model).__name__,
            tuple(edits),
            in_order(model, decided.skipped),
            decided.costs.parameters(),
            decided.costs.parameters(counts(edits)),
            decided.settled.budget,
        )

    def ranking(
        self, model: nn.Module, *, where: Where = None, calibration: Calibration = None
    ) -> tuple[tuple[Ranked, ...], tuple[Skipped, ...]]:
        """The scores behind a plan: of every group that can be cut, also where all of it stays; and the other layers.

        Args:
            model, where, calibration: As for :meth:`plan`, and what it raises is raised.
        """
        decided = self._decide(model, where, calibration, whole=True)
        going = {ladder.group.path: ladder for ladder, _ in decided.cuts}
        found = []
        for ladder in decided.ladders:
            path, order = ladder.group.path, ladder.order
            gone = order[: len(order) - decided.settled.kept[path]] if path in going else ()
            found.append(
                Ranked(
                    path=path,
                    writers=ladder.group.writers,
                    width=ladder.group.width,
                    scores=tuple(float(score) for score in ladder.scores),
                    gone=tuple(sorted(gone)),
                    reason=decided.skipped.get(path, ""),
                )
            )
        shown = {path for each in found for path in each.writers}
        others = {path: reason for path, reason in decided.skipped.items() if path not in shown}
        return tuple(found), in_order(model, others)

    def in_rounds(
        self, model: nn.Module, count: int, *, where: Where = None, calibration: Calibration = None
    ) -> Sequence["CFDP"]:
        """Cuts to make one after the other, tuning in between; the last one ends at the widths, or the target, of this one.

        Every round leaves the same share of what the one before left, before rounding.

        Args:
            model: Before the first cut.
            count: How many cuts.
            where: As for :meth:`plan`; what cannot be cut in the end is refused now.
            calibration: As for :meth:`plan`; only its first batch is looked at.

        Raises:
            SiteError, OrderError, DataError: As :meth:`plan` does.
            ValueError: The count is not positive, there is no calibration, or ``keep`` leaves a layer nothing.

        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 10, 1))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> for method in CFDP(keep=0.25).in_rounds(net, 2, calibration=images):
        ...     _ = method.plan(net, calibration=images).apply_(net)
        ...     print(method, net[0].out_channels)
        CFDP(keep=0.5) 32
        CFDP(keep=0.25) 16
        """
        if count <= 1:
            super().in_rounds(model, count)  # refuses what is less
            return (self,)
        check_order(model)
        first = next(images_of(calibration, model, who="CFDP"))
        layers = Layers.of(model, first, where)
        self._asked.check(model, layers)
        original = {group.path: len(group.units) for group in layers.groups}
        if self.target is not None:
            aims = targets(Target.parse(self.target), count, self._costs(model, first[:1]))
            return tuple(replace(self, target=target, original=original) for target in aims)
        each = keeps(self._keeps(), count)
        if isinstance(self.keep, Mapping | str):
            return tuple(replace(self, keep=keep, original=original) for keep in each)
        return tuple(replace(self, keep=keep["*"], original=original) for keep in each)

    def _decide(self, model: nn.Module, where: Where, calibration: Calibration, *, whole: bool = False) -> "_Decided":
        """What goes; with ``whole``, groups are scored too of which it is clear before that all of them stays."""
        check_order(model)
        batches = images_of(calibration, model, who="CFDP")
        first = next(batches)
        layers, asked = Layers.of(model, first, where), self._asked
        asked.check(model, layers)
        skipped = dict(layers.left)
        rungs: dict[str, tuple[int, ...]] = {}
        for group in layers.groups:
            rungs[group.path], reason = asked.rungs(model, group, layers)
            if reason:
                skipped |= dict.fromkeys(group.writers, reason)
        looked = [group for group in layers.groups if len(rungs[group.path]) > (0 if whole else 1)]
        costs = self._costs(model, first[:1])
        ladders = []
        for group, values in self._scores(model, looked, itertools.chain([first], batches)):
            if values is None:
                skipped |= dict.fromkeys(group.writers, "what reads its channels is not called as a layer")
            else:
                ladders.append(Ladder.of(group, values, rungs[group.path]))
        target = None if self.target is None else Target.parse(self.target)
        settled = settle(model, ladders, target, costs, first[:2])
        cuts = []
        for ladder in ladders:
            reason = skipped.get(ladder.group.path) or staying(ladder, settled, target=self.target)
            if not reason:
                cuts.append((ladder, ladder.cut(model, settled.kept[ladder.group.path])))
            else:
                skipped |= dict.fromkeys(ladder.group.writers, reason)
        return _Decided(tuple(ladders), tuple(cuts), settled, skipped, costs, first[:1])

    @property
    def _asked(self) -> Asked:
        return Asked(
            keeps=self._keeps(),
            target=self.target,
            round_to=self.round_to,
            least=self.least,
            original=self.original or {},
        )

    def _costs(self, model: nn.Module, x: Tensor) -> Costs:
        try:
            return Costs.of(model, x)
        except UnsupportedError:
            if self.target is not None and self.target.startswith("macs"):
                raise
            return Costs.of(model, None)

    def _scores(
        self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Tensor]
    ) -> list[tuple[Group, Tensor | None]]:
        if self.score == "random":
            return drawn(groups, batches, self.seed)
        score = SCORES[self.score]
        return scored(model, groups, batches, lambda maps: score(maps, self.sigma, self.weight, self.block))


@dataclass(frozen=True, eq=False)
class _Decided:
    """All that follows from a look at the images: scored groups, cuts, widths, why layers stay whole, and costs of an image."""

    ladders: tuple[Ladder, ...]
    cuts: tuple[tuple[Ladder, PruneChannels], ...]
    settled: Settled
    skipped: Mapping[str, str]
    costs: Costs
    image: Tensor
