"""What stands right beside some layers in a forward: the norm and the clamping activations that nothing else has to do with."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spectrim.nn.absorbed import Absorbed
from spectrim.nn.component import Layer
from spectrim.nn.limits import FREE, Limits, limits_of
from spectrim.surgery.channels import still
from spectrim.surgery.outputs import tensors_in

_OTHER = "(an operation)"
_OUTPUT = "(the output of the model)"


@dataclass(frozen=True)
class Beside:
    """The modules right before and right behind a layer, by dotted name; None where there are none.

    Attributes:
        before: An activation that only clamps, or a norm that ends with one, whose output nothing but the layer reads; see :func:`ending`.
        behind: What reads the output of the layer, and nothing else does: a norm, an activation that only clamps, one behind the other,
            or both in one module.
    """

    before: str | None = None
    behind: tuple[str, ...] = ()


def beside(model: nn.Module, example: Tensor, paths: Collection[str]) -> dict[str, Beside]:
    """What stands beside each of some layers that are called; nothing beside those that are called several times.

    Args:
        model: Runs once in evaluation mode, and is as before.
        example: One batch.
        paths: Dotted names of the layers.

    >>> net = nn.Sequential(nn.ReLU6(), nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 8, 1))
    >>> beside(net, torch.zeros(1, 8, 4, 4), ["1", "4"])
    {'1': Beside(before='0', behind=('2', '3')), '4': Beside(before='3', behind=())}
    """
    modules = {path: each for path, each in model.named_modules() if path in paths or clamp_of(each) is not None}
    follows, calls = readers(model, example, modules)
    once = {path for path, count in calls.items() if count == 1}
    alone = {id(modules[path]) for path in once}
    leads = {reader: writer for writer, reader in follows.items() if {reader, writer} <= once}
    found = {}
    for path in paths:
        if path not in calls:
            continue
        behind: list[str] = []
        at = path if path in once else ""
        while (at := follows.get(at, "")) in once and at not in paths and not heard_between(model, [path, at]):
            clamps = clamp_of(modules[at]) != FREE
            if (behind and not clamps) or (isinstance(modules[at], _BatchNorm) and _writes_last(modules[path])):
                break
            behind.append(at)
            if clamps:
                break
        before = leads.get(path)
        if (
            before is None
            or before in paths
            or clamp_of(modules[before]) == FREE
            or id(model.get_submodule(ending(model, before))) not in alone
            or heard_between(model, [before, path])
        ):
            before = None
        found[path] = Beside(before, tuple(behind))
    return found


def readers(model: nn.Module, example: Tensor, modules: Mapping[str, nn.Module]) -> tuple[dict[str, str], Counter[str]]:
    """Of some modules those that alone read what another one writes, and how often each is called.

    Args:
        model: Runs once in evaluation mode, and is as before.
        example: One batch.
        modules: Of the model, by dotted name.

    Returns:
        The name of the only reader for the name of each writer that has one, and the number of calls.

    >>> net = nn.Sequential(nn.ReLU6(), nn.Conv2d(8, 2, 1))
    >>> readers(net, torch.zeros(1, 8, 4, 4), dict(net.named_children()))[0]
    {'0': '1', '1': '(the output of the model)'}
    """
    watch = _Readers()
    handles = []
    for path, module in modules.items():
        handles += [
            module.register_forward_pre_hook(watch.reads(path), with_kwargs=True),
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
    return {writer: found[0] for writer, found in watch.readers.items() if len(found) == 1}, watch.calls


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

    A norm may bring its activation along, as timm's do. Other classes compute who knows what, and where hooks are, somebody listens.

    >>> clamp_of(nn.BatchNorm2d(2)), clamp_of(nn.ReLU6()), clamp_of(nn.Conv2d(2, 2, 1))
    ((-inf, inf), (0.0, 6.0), None)
    """
    if heard(module):
        return None
    if not isinstance(module, _BatchNorm):
        return limits_of(module)
    if not _understood(module) or module.running_mean is None or module.running_var is None:
        return None
    act = module._modules.get("act")
    return FREE if act is None or type(act) in (nn.Identity, Absorbed) else clamp_of(act)


def ending(model: nn.Module, path: str) -> str:
    """The dotted name of the activation at the end of what stands at a name: of itself, or of one inside a norm.

    >>> ending(nn.Sequential(nn.ReLU()), "0")
    '0'
    """
    return f"{path}.act" if isinstance(model.get_submodule(path), _BatchNorm) else path


def heard(module: nn.Module) -> bool:
    """Whether somebody listens with a hook to what a module reads or writes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def heard_between(model: nn.Module, paths: Sequence[str]) -> bool:
    """Whether somebody listens to a module in which some of these stand, and not all: work that moves from one to another is seen there.

    >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1)), nn.ReLU())
    >>> _ = net[0].register_forward_hook(print)
    >>> heard_between(net, ["0.0", "1"])
    True
    """
    common = len(shared_path(paths))
    around = {path.rsplit(".", up)[0] for path in paths for up in range(1, path.count(".") - common + 1)}
    return any(heard(model.get_submodule(path)) for path in around)


def shared_path(paths: Sequence[str]) -> list[str]:
    """The names that lead to the innermost module inside of which all of these stand.

    >>> shared_path(["block.expand.0", "block.expand.1", "block.project"])
    ['block']
    """
    names = [each.split(".") for each in paths]
    common = 0
    while all(len(each) > common + 1 and each[common] == names[0][common] for each in names):
        common += 1
    return names[0][:common]


def _understood(norm: _BatchNorm) -> bool:
    """Whether a norm is one of torch, or one of timm, which are such norms with an activation behind."""
    kind = type(norm)
    return kind in (nn.BatchNorm2d, nn.SyncBatchNorm) or (
        kind.__module__.startswith("timm.layers.") and kind.__name__ in ("BatchNormAct2d", "SyncBatchNormAct")
    )


def _writes_last(layer: nn.Module) -> bool:
    """Whether what a layer writes has its channels last, so that a norm behind it is over another axis."""
    return issubclass(layer.stands_for if isinstance(layer, Layer) else type(layer), nn.Linear)


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """While active, notes who reads what some modules write; what runs inside of them is their own business."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._writer = WeakTensorKeyDictionary()
        self._inside = 0
        self.readers: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()

    def reads(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        """A hook for what a module takes in."""

        def note(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.calls[path] += 1
            if not self._inside:
                for each in tree_leaves((inputs, named)):
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
