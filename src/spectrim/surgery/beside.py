"""What stands right beside some layers in a forward: the norm and the clamping activations that nothing else has to do with."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spectrim.nn.limits import FREE, Limits, limits_of
from spectrim.surgery.channels import still
from spectrim.surgery.outputs import tensors_in

_OTHER = "(an operation)"
_OUTPUT = "(the output of the model)"


@dataclass(frozen=True)
class Beside:
    """The modules right before and right behind a layer, by dotted name; None where there are none.

    Attributes:
        before: An activation that only clamps, alone or at the end of a norm, whose output nothing but the layer reads.
        behind: What reads the output of the layer, and nothing else does: a norm, an activation that only clamps, one behind the other,
            or both in one module.
    """

    before: str | None = None
    behind: tuple[str, ...] = ()


def beside(model: nn.Module, example: Tensor, paths: Collection[str]) -> dict[str, Beside]:
    """What stands beside each of some layers that are called once.

    Args:
        model: Runs once in evaluation mode, and is as before.
        example: One batch.
        paths: Dotted names of the layers.

    >>> net = nn.Sequential(nn.ReLU6(), nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 8, 1))
    >>> beside(net, torch.zeros(1, 8, 4, 4), ["1", "4"])
    {'1': Beside(before='0', behind=('2', '3')), '4': Beside(before='3', behind=())}
    """
    modules = {path: each for path, each in model.named_modules() if path in paths or clamp_of(each) is not None}
    watch = _Readers()
    handles = []
    for path, module in modules.items():
        handles += [
            module.register_forward_pre_hook(watch.reads(path)),
            module.register_forward_hook(watch.writes(path), always_call=True),
        ]
    try:
        with still(model), torch.no_grad(), watch:
            output = model(example)
    finally:
        for handle in handles:
            handle.remove()
    for tensor in tensors_in(output):
        watch.note(tensor, _OUTPUT)
    follows = {writer: readers[0] for writer, readers in watch.readers.items() if len(readers) == 1}
    once = {path for path, count in watch.calls.items() if count == 1}
    leads = {reader: writer for writer, reader in follows.items() if {reader, writer} <= once}
    found = {}
    for path in paths:
        if path not in once:
            continue
        behind: list[str] = []
        at = path
        while (at := follows.get(at, "")) in once and at not in paths:
            clamps = clamp_of(modules[at]) != FREE
            if behind and not clamps:
                break
            behind.append(at)
            if clamps:
                break
        before = leads.get(path)
        if before is None or before in paths or clamp_of(modules[before]) == FREE:
            before = None
        found[path] = Beside(before, tuple(behind))
    return found


def clamps_beside(model: nn.Module, known: Mapping[str, Beside]) -> dict[str, tuple[Limits, Limits]]:
    """Between which numbers activations before and behind each layer clamp; one between two layers counts for the first of them.

    >>> net = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU6(), nn.Conv2d(2, 8, 1))
    >>> clamps_beside(net, beside(net, torch.zeros(1, 8, 4, 4), ["0", "2"]))
    {'0': ((-inf, inf), (0.0, 6.0)), '2': ((-inf, inf), (-inf, inf))}
    """
    taken: set[str] = set()

    def of(names: Collection[str]) -> Limits:
        free = [name for name in names if name not in taken]
        taken.update(free)
        clamps = [clamp_of(model.get_submodule(name)) for name in free]
        return next((each for each in clamps if each not in (None, FREE)), None) or FREE

    return {path: (of([each.before] if each.before else []), of(each.behind)) for path, each in known.items()}


def clamp_of(module: nn.Module) -> Limits | None:
    """Between which numbers a norm or an activation clamps at its end, ``FREE`` for a norm alone; None for other modules.

    A norm may bring its activation along, as timm's do.

    >>> clamp_of(nn.BatchNorm2d(2)), clamp_of(nn.ReLU6()), clamp_of(nn.Conv2d(2, 2, 1))
    ((-inf, inf), (0.0, 6.0), None)
    """
    if not isinstance(module, _BatchNorm):
        return limits_of(module)
    inside = [each for each in module.modules() if each is not module and not isinstance(each, nn.Identity)]
    if module.running_mean is None or module.running_var is None or len(inside) > 1:
        return None
    return limits_of(inside[0]) if inside else FREE


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """While active, notes who reads what some modules write; what runs inside of them is their own business."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._writer = WeakTensorKeyDictionary()
        self._inside = 0
        self.readers: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()

    def reads(self, path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """A hook for what a module takes in."""

        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not self._inside:
                self.calls[path] += 1
                for each in tree_leaves(inputs):
                    self.note(each, path)
            self._inside += 1

        return note

    def writes(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        """A hook for what a module gives out."""

        def note(_: nn.Module, __: Any, output: Any) -> None:
            self._inside -= 1
            if not self._inside and isinstance(output, Tensor):
                self._writer[output] = path
                self.readers.setdefault(path, [])

        return note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what it read."""
        if not self._inside:
            for each in tree_leaves((args, kwargs or {})):
                self.note(each, _OTHER)
        return func(*args, **(kwargs or {}))

    def note(self, value: Any, reader: str) -> None:
        """That something reads a tensor that one of the modules wrote."""
        writer = self._writer.get(value) if isinstance(value, Tensor) else None  # type: ignore[no-untyped-call]
        if writer is not None:
            self.readers[writer].append(reader)
