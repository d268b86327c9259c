"""A cut tried on a copy: whether the forward really follows, before the model itself is touched."""

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.errors import PlanError, UnsupportedError, first_line
from spectrim.surgery import isolated
from spectrim.surgery.outputs import tensors_in
from spectrim.surgery.prune import PruneChannels, silenced

_TOLERANCE = 1e-3
"""Largest difference, relative to the largest number of an output: float32 through a hundred layers leaves less, a wrong
channel more."""

_LONGEST = 120
"""Letters of what a forward said that go into a reason."""

_FAILS = "the forward has sizes of its own and fails when it is cut ({})"


def not_followed(model: nn.Module, edits: Sequence[PruneChannels], inputs: Sequence[Any]) -> dict[str, str]:
    """The edits that the forward of a model does not follow, with what happened.

    The cut copy has to compute what the whole copy computes when nothing reads the removed channels. A forward can fail to
    follow where it has sizes of its own (``view(-1, 64)``, a number of heads), which no trace of operations shows. Where the
    whole copy runs in training mode, the cut one has to as well: some heads are in use only there. Which edits are to blame is
    found block by block where the block itself fails, and else by halving, with the layers at the same place of all blocks next to
    each other, as one of them is seldom to blame alone.

    Args:
        model: Stays as it is.
        edits: That fit it.
        inputs: Arguments of the forward; two images, so that an axis of one is not taken for another.

    Raises:
        UnsupportedError: The model cannot be copied.
    """
    try:
        trial = copy.deepcopy(model).eval()
    except Exception as error:
        raise UnsupportedError(
            f"a cut is tried on a copy first, and {type(model).__name__} cannot be copied: {error}."
        ) from error
    _liven_(trial)
    in_order = sorted(edits, key=lambda edit: re.sub(r"\d+", "", edit.path))
    blamed: dict[str, str] = {}
    if in_order and _answers_otherwise(trial, in_order, inputs):
        blamed = {
            path: _FAILS.format(why[:_LONGEST]) for path, why in isolated.failing(trial, in_order, inputs).items()
        }
    rest = [edit for edit in in_order if edit.path not in blamed]
    blamed |= _blamed(rest, lambda some: _answers_otherwise(trial, some, inputs))
    try:
        _train(trial, inputs)
    except Exception:  # noqa: BLE001 - it may want targets, or more images
        return blamed
    rest = [edit for edit in in_order if edit.path not in blamed]
    return blamed | _blamed(rest, lambda some: _does_not_train(trial, some, inputs))


def difference(model: nn.Module, edits: Sequence[PruneChannels], inputs: Sequence[Any]) -> float:
    """Largest difference between the cut model and the silenced one, relative to the largest number of the output in which it
    is; NaN where one of them is not finite. The model is restored.

    Raises:
        PlanError: The edits do not fit the model.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        values = silenced(model, edits)
        undo = PruneChannels.prepare_together(edits, model)[0]()
        try:
            found = _outputs(model(*inputs))  # first, as this is what may fail
        finally:
            undo()
        before = {name: tensors[name].data.clone() for name in values}
        try:
            for name, value in values.items():
                tensors[name].data.copy_(value)
            expected = _outputs(model(*inputs))
        finally:
            for name, value in before.items():
                tensors[name].data.copy_(value)
    if [each.shape for each in found] != [each.shape for each in expected]:
        return math.inf
    off = [
        float((a - b).abs().max()) / max(float(b.abs().max()), 1e-30)
        for a, b in zip(found, expected, strict=True)
        if b.numel()
    ]
    return math.nan if any(map(math.isnan, off)) else max(off, default=0.0)


def _blamed(edits: list[PruneChannels], reason_of: Callable[[list[PruneChannels]], str | None]) -> dict[str, str]:
    """By halving; what only fails together is blamed on the second half."""
    reason = reason_of(edits) if edits else None
    if reason is None:
        return {}
    if len(edits) == 1:
        return {edits[0].path: reason}
    middle = len(edits) // 2
    halves = edits[:middle], edits[middle:]
    blamed = {path: why for half in halves for path, why in _blamed(half, reason_of).items()}
    rest = [edit for edit in edits if edit.path not in blamed]
    if not rest or (len(rest) < len(edits) and reason_of(rest) is None):
        return blamed
    together = {edit.path: f"{reason} (together with other layers)" for edit in rest[len(rest) // 2 :]}
    return blamed | together | _blamed(rest[: len(rest) // 2], reason_of)


def _answers_otherwise(trial: nn.Module, edits: list[PruneChannels], inputs: Sequence[Any]) -> str | None:
    """What happens where the cut copy does not compute what the silenced one does."""
    try:
        off = difference(trial, edits, inputs)
    except PlanError as error:
        return f"cannot be cut: {error}"
    except Exception as error:  # noqa: BLE001 - a stranger's forward may raise anything, and all of it means the same
        return _FAILS.format(first_line(error)[:_LONGEST])
    if math.isnan(off) or off > _TOLERANCE:
        return "the forward has sizes of its own and computes something else when it is cut"
    return None


def _does_not_train(trial: nn.Module, edits: list[PruneChannels], inputs: Sequence[Any]) -> str | None:
    """What happens where the cut copy fails in training mode."""
    undo = PruneChannels.prepare_together(edits, trial)[0]()
    try:
        _train(trial, inputs)
    except Exception as error:  # noqa: BLE001 - a stranger's forward may raise anything
        return f"the forward of training fails when it is cut ({first_line(error)[:_LONGEST]})"
    finally:
        undo()
    return None


def _train(model: nn.Module, inputs: Sequence[Any]) -> None:
    """Run a model in training mode; its buffers and torch's random numbers are as before."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            model.train()(*inputs)
    finally:
        model.eval()
        for module, name, buffer, values in before:
            module._buffers[name] = buffer.copy_(values)


def _outputs(output: Any) -> list[Tensor]:
    return [tensor.double() for tensor in tensors_in(output) if tensor.is_floating_point()]


def _liven_(model: nn.Module) -> None:
    """Draw parameters that are about zero, which would hide what goes on behind them (zero-initialised branches)."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not name.endswith("bias") and float(parameter.detach().abs().max()) < 1e-2:
            fresh = torch.rand(parameter.shape, generator=generator) + 0.5
            if parameter.ndim > 1:
                fresh = (fresh - 1) * math.sqrt(12 / max(parameter[0].numel(), 1))
            parameter.data.copy_(fresh)
