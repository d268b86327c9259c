"""How many multiply-accumulates one forward pass takes."""

import copy
from collections import Counter
from collections.abc import Sequence
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
        by_module: The share of ``total`` of each module that computes anything, by dotted name; a parent contains what its
            children compute in it, the root has the empty name. A module with several names has a row under the first one,
            of all its calls.
    """

    total: int
    decode: int
    by_module: dict[str, int]


def macs(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> int:
    """Multiply-accumulates of one forward pass over these inputs, in evaluation mode, decoding left out.

    Counted are, each time they are called, convolutions, transposed convolutions, matrix products and attention, as torch dispatches them, half of
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
    counter = FlopCounterMode(display=False)
    calls = _watched(model, ghost, counter)
    with torch.no_grad():
        try:
            with FlopCounterMode(display=False) as decoding:
                _decode_(ghost)
            with counter, torch.device("meta"):
                ghost(*(argument.to("meta") for argument in arguments))
        except (NotImplementedError, RuntimeError) as error:
            reason = first_line(error)
            raise UnsupportedError(
                f"counting the operations of {type(model).__name__} runs its forward on tensors without values, which "
                f"failed: {reason}. Check the shapes of the inputs; a forward that reads values cannot be counted."
            ) from error
    counted = Counter({name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()})
    for call in calls:
        if (own := call.layer.multiplications(call.shape)) is not None:
            counted.update(dict.fromkeys(call.running, own - call.counted))
    root, first = type(ghost).__name__, _first_names(model)
    by_module: Counter[str] = Counter()
    for name, count in counted.items():
        if name == root or name.startswith(f"{root}."):
            path = name.removeprefix(root).removeprefix(".")
            by_module[first.get(path, path)] += count
    return Macs(
        total=counted["Global"],
        decode=decoding.get_total_flops() // 2,
        by_module={name: count for name, count in by_module.items() if count},
    )


@dataclass(frozen=True)
class _Call:
    """One call of a layer: what it reads, what torch counts of it, and what runs, by the names that the counter has for it."""

    layer: Layer
    shape: Sequence[int]
    counted: int
    running: frozenset[str]


def _watched(model: nn.Module, ghost: nn.Module, counter: FlopCounterMode) -> list[_Call]:
    """The calls of the layers of the model; filled when the ghost runs, which holds no values."""
    calls: list[_Call] = []

    def watch_(ghostly: nn.Module, layer: Layer) -> None:
        before: list[tuple[int, frozenset[str]]] = []

        def enter(*_: Any) -> None:
            before.append((counter.get_total_flops(), frozenset(counter.mod_tracker.parents)))

        def leave(_: nn.Module, inputs: tuple[Any, ...], __: Any) -> None:
            flops, running = before.pop()
            if inputs and isinstance(inputs[0], Tensor):
                counted = (counter.get_total_flops() - flops) // 2
                calls.append(_Call(layer, tuple(inputs[0].shape), counted, running))

        ghostly.register_forward_pre_hook(enter)
        ghostly.register_forward_hook(leave)

    for path, module in model.named_modules():
        if isinstance(module, Layer):
            watch_(ghost.get_submodule(path), module)
    return calls


def _first_names(model: nn.Module) -> dict[str, str]:
    """For every name of every module the first one.

    >>> _first_names(nn.Sequential(layer := nn.ReLU(), layer))
    {'': '', '0': '0', '1': '0'}
    """
    first: dict[int, str] = {}
    return {name: first.setdefault(id(module), name) for name, module in model.named_modules(remove_duplicate=False)}


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
