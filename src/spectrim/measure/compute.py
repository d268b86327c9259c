"""How many multiply-accumulates one forward pass takes."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from spectrim.errors import UnsupportedError, first_line
from spectrim.nn.component import Codec, Layer
from spectrim.surgery.edits import replace_tensor_
from spectrim.surgery.sites import parametrized


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-accumulates of one forward pass.

    Attributes:
        total: Of the network itself, with every coded tensor already decoded.
        decode: Of decoding all coded tensors once; happens when an artifact is loaded, or on every training step.
        by_module: The share of ``total`` of each module that computes anything, by dotted name; a parent contains its
            children, the root has the empty name.
    """

    total: int
    decode: int
    by_module: dict[str, int]


def macs(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> int:
    """Multiply-accumulates of one forward pass over these inputs, in evaluation mode, decoding left out.

    Counted are convolutions, transposed convolutions, matrix products and attention, as torch dispatches them, half of
    their floating-point operations each; additions of biases, normalisations, activations and pooling are not, which is
    the convention of the papers. Pointwise convolutions of low frequencies are counted as their compiled form computes them: products
    over what is kept, and transforms by rows and columns. The forward runs on a copy without storage, so the size of the model does not
    matter, and the model itself is not touched.

    Args:
        model: Any module; where tensors are coded, the dense form is measured. For the form that
            :func:`spectrim.finalize_` chooses, finalize first.
        inputs: What the forward takes; only shapes and dtypes matter. A batch counts as a whole.

    Raises:
        UnsupportedError: The forward reads values (``.item()``, ``.numpy()``), which a count by shape cannot follow.

    >>> macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
    21600
    """
    return macs_report(model, inputs).total


def macs_report(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> Macs:
    """The count of :func:`macs` by module, and what decoding costs.

    >>> report = macs_report(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> report.total, report.by_module["2"], report.decode
    (48, 16, 0)
    """
    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    ghost = _ghost(model)
    calls = _watched(model, ghost)
    with torch.no_grad():
        try:
            with FlopCounterMode(display=False) as decoding:
                _decode_(ghost)
            with FlopCounterMode(display=False) as counter, torch.device("meta"):
                ghost(*(argument.to("meta") for argument in arguments))
        except (NotImplementedError, RuntimeError) as error:
            reason = first_line(error)
            raise UnsupportedError(
                f"counting the operations of {type(model).__name__} runs its forward on tensors without values, which "
                f"failed: {reason}. Check the shapes of the inputs; a forward that reads values cannot be counted."
            ) from error
    root = type(ghost).__name__
    by_module = {
        name.removeprefix(root).removeprefix("."): sum(counts.values()) // 2
        for name, counts in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    total = counter.get_total_flops() // 2
    for path, count in _own(calls).items():
        more = count - by_module.get(path, 0)
        total += more
        for name in _upwards(path):
            by_module[name] = by_module.get(name, 0) + more
    return Macs(
        total=total,
        decode=decoding.get_total_flops() // 2,
        by_module={name: count for name, count in by_module.items() if count},
    )


def _watched(model: nn.Module, ghost: nn.Module) -> list[tuple[str, Layer, Sequence[int]]]:
    """The layers of the model with the shape of what each of their calls reads; filled when the ghost runs, which holds no values."""
    calls: list[tuple[str, Layer, Sequence[int]]] = []

    def note_for(path: str, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                calls.append((path, layer, tuple(inputs[0].shape)))

        return note

    for path, module in model.named_modules():
        if isinstance(module, Layer):
            ghost.get_submodule(path).register_forward_pre_hook(note_for(path, module))
    return calls


def _own(calls: Sequence[tuple[str, Layer, Sequence[int]]]) -> dict[str, int]:
    """What the layers count that know better than torch, by dotted name."""
    found: dict[str, int] = {}
    for path, layer, shape in calls:
        if (count := layer.multiplications(shape)) is not None:
            found[path] = found.get(path, 0) + count
    return found


def _upwards(path: str) -> list[str]:
    """A dotted name, those of what holds it, and that of the root.

    >>> _upwards("a.b")
    ['a.b', 'a', '']
    """
    parts = path.split(".") if path else []
    return [".".join(parts[:depth]) for depth in range(len(parts), 0, -1)] + [""]


def ghost_of(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode without storage or hooks, every coded tensor in its dense form."""
    ghost = _ghost(model)
    with torch.no_grad():
        _decode_(ghost)
    return ghost


def _ghost(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have shapes but no storage, except those to be decoded; calls no hooks."""
    memo: dict[int, object] = {}
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            memo.update({id(code): code for code in module.parameters()})
            memo.update({id(buffer): buffer.detach().clone() for buffer in module.buffers()})
    for parameter in model.parameters():
        memo.setdefault(id(parameter), nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))
    for module in model.modules():
        for tensor in (*module.buffers(recurse=False), *vars(module).values()):
            if isinstance(tensor, Tensor):
                memo.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
    ghost: nn.Module = copy.deepcopy(model, memo)
    for module in ghost.modules():
        module._forward_hooks.clear()  # noqa: SLF001 - torch has no public way to drop hooks of others
        module._forward_pre_hooks.clear()  # noqa: SLF001
    return ghost.eval()


def _decode_(ghost: nn.Module) -> None:
    """Put dense tensors, without storage, in place of everything that parametrize stands for."""
    for site, stack in list(parametrized(ghost)):
        for part in stack:
            if isinstance(part, Codec):
                part.train()  # in evaluation a codec may remember its tensor, and the count would be zero
        dense = torch.empty_like(stack(), device="meta")
        replace_tensor_(site.module, site.tensor, nn.Parameter(dense, requires_grad=False))
