"""The repair of a cut network: every layer fitted anew, in order, to what it wrote in the whole one."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from spectrim.calibration import Calibration, images_of, see
from spectrim.errors import DataError, OrderError, PlanError
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.repair.calls import Call, Calls, layers_of, own
from spectrim.repair.fitting import Rows, grouped, ungrouped
from spectrim.repair.norms import norms_of
from spectrim.repair.original import Original, fitted, moments, seen
from spectrim.repair.report import Refitted, Repair
from spectrim.surgery.channels import still
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.prune import Axes, PruneChannels, removed
from spectrim.surgery.sites import coded, dotted

_HELD_OUT = 8  # every so many images one is not fitted to
_IMAGES, _PIXELS = (64, 640), 640 * 128 * 128
"""Least and most images that are used where nobody says how many, and the pixels that they have together."""
_EXACT = 1e-9  # share of an output's variance that rounding may take


def repair_(
    model: nn.Module,
    original: nn.Module,
    *,
    plan: Plan,
    calibration: Calibration,
    images: int | None = None,
    ridge: float = 0.03,
) -> Repair:
    """Fit the weights of a cut network anew, in closed form, so that its layers write what they wrote before the cut.

    A cut is one of channels (:class:`spectrim.CFDP`), or of what pointwise convolutions see (:class:`spectrim.PointwisePruning`, before
    :func:`spectrim.finalize_`).

    Images run through the original, and a sample of what every convolution and linear layer writes is kept. Then they run
    through the cut network, and each layer, when its turn comes, is fitted to its sample by least squares on what it now really
    reads, before it is called; each batch normalisation gets statistics with which its output has the mean and the
    variance that it had. So every layer makes up for what the ones before it could not. No gradients, no labels.

    One image in eight is held out. A layer whose error on these does not become smaller keeps its weights, and is named in
    the report; and so does one that reads what it read before. Where the output is further off on them in the end, all stays as it was,
    and the report says so in its first line.

    Args:
        model: Cut by ``plan``, otherwise as the original; its weights change. Build the optimizer after this, as after the
            cut, or before: parameters stay the same objects.
        original: The network before the cut; stays as it is.
        plan: That was applied.
        calibration: Batches of training images, or one tensor of them. A few hundred are enough.
        images: At most so many are used, the first ones; if None, 640, or of larger images as many as have ten million pixels
            together, but at least 64. All of them go through the networks at once, so memory is that of a forward pass over them.
        ridge: How strongly weights are held to what the cut left of them, relative to the mean square of a layer's inputs.

    Returns:
        What was done, layer by layer.

    Raises:
        PlanError: The model is not the original cut by the plan.
        OrderError: The model carries codes already.
        ValueError: There is no calibration, or a number is out of range.
        DataError: It has less than two images, holds NaN, or does not go through the model, which is then as it was.

    References:
        He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks" (arXiv 1707.06168), section 3: least
        squares on the outputs of the whole network, layer after layer. Here without its selection of channels.

    >>> import copy, spectrim as st
    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1))
    >>> x = torch.rand(64, 3, 8, 8)
    >>> plan = st.plan(net, st.CFDP(keep=0.5), calibration=x)
    >>> print(repair_(plan.apply_(copy.deepcopy(net)), net, plan=plan, calibration=x))
    refitted 1 of 2 layers and 0 norms to 56 images; on 8 others ...% → ...% of the output is off
      2  8 of 16 inputs; ...% → ...% is lost
      0  left as it is: reads what it read before
    """
    if images is not None and images < 2:
        raise ValueError(f"images must be at least 2, one of which is held out, got {images}.")
    if not ridge > 0 or not math.isfinite(ridge):
        raise ValueError(f"ridge must be positive, got {ridge!r}.")
    gone = _fits(model, original, plan)
    x, split = _together(calibration, original, images)
    with still(original), still(model), torch.no_grad(), _restored(model) as restore_, _inverse_first(model):
        with Original(original, split) as first:
            wanted = see(original, x, 0)
        before = _off(model(x), wanted, split)
        with _Mender(model, original, gone, first, ridge) as mender:
            after = _off(model(x), wanted, split)
        if not math.isfinite(after):
            raise DataError("the output for the calibration images is not finite. Check the model's weights.")
        counts = (split[1], split[0] - split[1])
        if after > before:
            restore_()
            why = f"do not help: {before:.1%} of the output is off, {after:.1%} would be"
            left, tried = (
                mender.left(f"all refits together {why}"),
                f"{len(mender.refitted)} layers and {mender.norms} norms",
            )
            return Repair((), left, 0, counts, before, before, undone=f"{tried} {why}")
    return Repair(tuple(mender.refitted), mender.left(), mender.norms, counts, before, after)


class _Mender(Calls):
    """Watches the cut network run, and mends each layer before it is called."""

    def __init__(self, model: nn.Module, original: nn.Module, gone: Axes, first: Original, ridge: float) -> None:
        super().__init__(model)
        self.refitted: list[Refitted] = []
        self.norms = 0
        self._layers = layers_of(model)
        self._norms = norms_of(model)
        self._reasons: dict[str, str] = {}
        self._original = original
        self._gone = gone
        self._first = first
        self._ridge = ridge
        self._seen: set[str] = set()

    def before(self, call: Call) -> None:
        if call.path in self._seen:
            return
        self._seen.add(call.path)
        if call.kind == "norm":
            self._match_(call)
        elif isinstance(done := self._refit_(call), str):
            self._reasons[call.path] = done
        else:
            self.refitted.append(done)

    def after(self, call: Call, out: Tensor) -> None:
        pass

    def left(self, undone: str = "") -> tuple[Skipped, ...]:
        """The layers that keep their weights, in the order of the model; with a reason why those that were fitted do, these too."""
        reasons = self._reasons | ({row.path: undone for row in self.refitted} if undone else {})
        done = {row.path for row in self.refitted} - reasons.keys()
        why = "is not called with its own weight for the calibration"
        return tuple(Skipped(path, reasons.get(path, why)) for path in self._layers if path not in done)

    def _refit_(self, call: Call) -> Refitted | str:
        """New weights, or why there are none."""
        target = self._first.targets.get(call.path)
        layer = self._layers[call.path]
        strided = isinstance(layer, BandedPointwiseConv2d)  # which leaves out what a stride skips before it is called
        if target is None or seen(call) != ((target.seen[0], *target.size) if strided else target.seen):
            return "is not called with batches as in the original"
        if target.calls > 1:
            return f"is called {target.calls} times"
        weight, bias = cast(nn.Parameter, layer.weight), cast(nn.Parameter | None, layer.bias)
        rows = Rows(call, target, self._kept(call.path, "weight", call.kind == "transposed"), self._first.images)
        prior = grouped(weight, call)
        shift = torch.zeros(()) if bias is None else own(bias).reshape(prior.shape[:2])
        before = rows.lost(prior, shift)
        if before <= _EXACT:
            return "reads what it read before"
        fit = rows.fit(prior, ridge=self._ridge, offset=target.normed or bias is not None)
        after = rows.lost(*fit)
        if not after < before:
            return f"a refit does not help: {before:.1%} of its output is lost, {after:.1%} would be"
        weight.copy_(ungrouped(fit[0], weight, call))
        if bias is not None:
            bias.copy_(fit[1].flatten())
        return Refitted(call.path, (prior.shape[2], target.inputs), before, after)

    def _match_(self, call: Call) -> None:
        """Statistics with which a norm's output has the mean and the variance that it has in the whole network."""
        found, norm = self._first.norms.get(call.path), self._norms[call.path]
        if found is None:
            return
        kept = self._kept(call.path, "running_mean", 0)
        whole = cast(_BatchNorm, self._original.get_submodule(call.path))
        mean, variance = (cast(Tensor, each)[kept].double() for each in (whole.running_mean, whole.running_var))
        was, now = (found[0][kept], found[1][kept] + whole.eps), moments(call.x, self._first.images)
        if torch.allclose(was[0], now[0], rtol=1e-6, atol=1e-6 * float(was[1].max()) ** 0.5) and torch.allclose(
            was[1], now[1] + whole.eps, rtol=1e-5
        ):
            return
        spread = (now[1] + whole.eps) / was[1]
        cast(Tensor, norm.running_mean).copy_(now[0] - (was[0] - mean) * spread.sqrt())
        cast(Tensor, norm.running_var).copy_(((variance + whole.eps) * spread - norm.eps).clamp(min=0))
        self.norms += 1

    def _kept(self, path: str, tensor: str, dim: int) -> Tensor:
        """The indices along an axis of the original's tensor that the cut left."""
        length = cast(Tensor, getattr(self._original.get_submodule(path), tensor)).shape[dim]
        left = torch.ones(length, dtype=torch.bool)
        left[self._gone.get(dotted(path, tensor), {}).get(dim, [])] = False
        return left.nonzero()[:, 0]


def _fits(model: nn.Module, original: nn.Module, plan: Plan) -> Axes:
    """What the plan removed, after a look at whether the model is the original without it.

    Raises:
        OrderError: The model carries codes.
        PlanError: It is something else.
    """
    if codes := coded(model):
        raise OrderError(
            f"asked to repair a cut, but {len(codes)} tensors are already coded (first: {codes[0].site!r}, "
            f"{codes[0].codec.kind}). Cut, repair, and code last."
        )
    gone = removed(edit for edit in plan.edits if isinstance(edit, PruneChannels))
    found = {name: tuple(tensor.shape) for name, tensor in tensors_of(model)}
    for name, tensor in tensors_of(original):
        sides = list(tensor.shape)
        for dim, indices in gone.get(name, {}).items():
            if dim < len(sides):  # what a channel map reads is no axis of it
                sides[dim] -= len(indices)
        if found.get(name) != tuple(sides):
            raise PlanError(
                f"asked to repair {name!r}, which the plan leaves with shape {tuple(sides)}, found {found.get(name)}. Pass the "
                "network before the cut, and the plan that was applied to a copy of it."
            )
    return gone


def _together(calibration: Calibration, model: nn.Module, most: int | None) -> tuple[Tensor, tuple[int, int]]:
    """The images, those to be fitted to in front; how many there are, and how many of these are in front.

    Raises:
        DataError: They are fewer than two, or of several shapes.
    """
    batches: list[Tensor] = []
    for number, batch in enumerate(images_of(calibration, model, who="a repair")):
        most = most or max(_IMAGES[0], min(_IMAGES[1], _PIXELS // max(1, math.prod(batch.shape[2:]))))
        if batch.shape[1:] != batches[0].shape[1:] if batches else False:
            raise DataError(
                f"calibration batch {number} has images of shape {tuple(batch.shape[1:])}, the ones before it of "
                f"{tuple(batches[0].shape[1:])}. A repair wants images of one size."
            )
        batches.append(batch)
        if sum(map(len, batches)) >= most:
            break
    x = torch.cat(batches)[:most]
    if len(x) < 2:
        raise DataError("the calibration has 1 image, expected at least 2: some are held out. A few hundred are right.")
    held = torch.arange(len(x)) % _HELD_OUT == min(_HELD_OUT, len(x)) - 1
    order = torch.cat([(~held).nonzero()[:, 0], held.nonzero()[:, 0]])
    return x[order.to(x.device)], (len(x), int((~held).sum()))


def _off(output: Any, wanted: Any, images: tuple[int, int]) -> float:
    """Squared difference of two outputs for the held-out images, relative to the second."""
    difference = total = 0.0
    for mine, other in zip(tree_leaves(output), tree_leaves(wanted), strict=True):
        if isinstance(other, Tensor) and other.is_floating_point():
            begin = fitted(len(other), images) if other.ndim else 0
            a, b = own(mine[begin:] if other.ndim else mine), own(other[begin:] if other.ndim else other)
            difference += float((a - b).square().sum(dtype=torch.float64))
            total += float(b.square().sum(dtype=torch.float64))
    return difference / max(total, sys.float_info.min)


@contextmanager
def _restored(model: nn.Module) -> Iterator[Callable[[], None]]:
    """What fails inside leaves the model's numbers as they were; yields what brings them back without that."""
    before = [(tensor, tensor.detach().clone()) for _, tensor in tensors_of(model)]

    def restore_() -> None:
        for tensor, value in before:
            tensor.copy_(value)

    try:
        yield restore_
    except BaseException:
        restore_()
        raise


@contextmanager
def _inverse_first(model: nn.Module) -> Iterator[None]:
    """Pointwise convolutions of low frequencies read maps inside, so that their inputs are those of a convolution."""
    layers = [module for module in model.modules() if isinstance(module, BandedPointwiseConv2d)]
    try:
        for layer in layers:
            layer.inverse_first = True
        yield
    finally:
        for layer in layers:
            layer.inverse_first = False


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, by every name that they have."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
