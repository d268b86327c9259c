"""Which pointwise convolutions meet across a linear bottleneck: what some write, sums up, and only others read.

Between a projection and the expansions that read it there are norms and additions. Both are linear, and so are a spectrum and a
pointwise convolution: such a stream may stay in its spectrum from the one to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spectrim.errors import UnsupportedError, first_line
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.channels import still
from spectrim.surgery.outputs import tensors_in

_SAME = {"detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh"}
_NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"}
_SUMS = {"add", "add_"}


@dataclass(frozen=True)
class Stream:
    """Maps that pointwise convolutions write, that are added up, and that pointwise convolutions read.

    Attributes:
        writers: Dotted names of the convolutions that write it, in the order in which they run.
        readers: Of those that read it.
        norms: Of the norms that stand in it.
        others: Names of the operations that look at it otherwise, each once; where there are none, no one has to see it as maps.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def streams(model: nn.Module, inputs: Sequence[Any]) -> list[Stream]:
    """The linear streams of a model between pointwise convolutions, in the order in which they are first written.

    The model runs once on the inputs, in evaluation mode, where norms are linear, and is as before.

    Args:
        model: Any module.
        inputs: The arguments of its forward, one image is enough.

    Raises:
        UnsupportedError: The forward fails on them.

    >>> net = nn.Sequential(nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> streams(net, [torch.zeros(1, 8, 4, 4)])
    [Stream(writers=('0',), readers=('2',), norms=('1',), others=())]
    """
    watch = _Watch()
    handles = []
    for path, module in model.named_modules():
        if _is_pointwise(module):
            handles += [
                module.register_forward_pre_hook(watch.reads(path)),
                module.register_forward_hook(watch.writes(path), always_call=True),
            ]
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_hook(watch.norms(path)))
    try:
        with still(model), torch.no_grad(), watch:
            output = model(*inputs)
    except Exception as error:
        reason = first_line(error)
        raise UnsupportedError(
            f"asked for the linear streams of {type(model).__name__}, whose forward failed on the batch: {reason}. "
            "Check the shape of the batch."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    for tensor in tensors_in(output):
        watch.look(tensor, "the output of the model")
    return [stream for stream in watch.found() if stream.readers]


def _is_pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, BandedPointwiseConv2d | GroupedBandsConv2d | FlatBandsConv2d) and not module.geometry.last


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """While active, follows what pointwise convolutions write through norms and additions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._label = WeakTensorKeyDictionary()
        self._joined: dict[str, str] = {}
        self._notes: list[tuple[str, str, str]] = []  # of which stream, what it is, the name
        self._inside = 0

    # -- modules ---------------------------------------------------------------------------------------------------

    def reads(self, path: str) -> Any:
        """A hook that notes what a convolution reads; what runs inside of it is its own business."""

        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._inside += 1
            if inputs and isinstance(inputs[0], Tensor) and (label := self._of(inputs[0])):
                self._notes.append((label, "reader", path))

        return note

    def writes(self, path: str) -> Any:
        """A hook that starts a stream."""

        def note(_: nn.Module, __: Any, output: Any) -> None:
            self._inside -= 1
            if isinstance(output, Tensor):
                self._joined.setdefault(path, path)
                self._notes.append((path, "writer", path))
                self._label[output] = path

        return note

    def norms(self, path: str) -> Any:
        """A hook that notes a norm that a stream goes through."""

        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and (label := self._of(output)):
                self._notes.append((label, "norm", path))

        return note

    # -- operations ------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, then say what it makes of the streams that it sees."""
        out = func(*args, **(kwargs or {}))
        if not self._inside:
            self._pass(str(func).removeprefix("aten.").split(".", 1)[0], args, kwargs or {}, out)
        return out

    def _pass(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        seen = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        labels = [label for each in seen if (label := self._of(each))]
        outs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        if not labels:
            return
        if name in _SUMS and len(labels) == 2 and args[0].shape == args[1].shape and kwargs.get("alpha", 1) == 1:
            self._joined[self._root(labels[1])] = self._root(labels[0])
            self._label[outs[0]] = labels[0]
        elif name in _SAME or (name in _NORMS and self._of(args[0])):
            self._label[outs[0]] = labels[0]
        else:
            for each in seen:
                self.look(each, name)
            for each in outs:
                self._label.pop(each, None)  # type: ignore[no-untyped-call]

    def look(self, tensor: Tensor, name: str) -> None:
        """Note that something looks at a tensor as it is."""
        if label := self._of(tensor):
            self._notes.append((label, "other", name))

    def _of(self, tensor: Tensor) -> str | None:
        found: str | None = self._label.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def _root(self, label: str) -> str:
        while self._joined[label] != label:
            label = self._joined[label]
        return label

    # -- result ----------------------------------------------------------------------------------------------------

    def found(self) -> list[Stream]:
        """Every stream, its parts in the order in which they were met."""
        roots = dict.fromkeys(self._root(label) for label, what, _ in self._notes if what == "writer")

        def of(root: str, what: str) -> tuple[str, ...]:
            return tuple(
                dict.fromkeys(name for label, kind, name in self._notes if kind == what and self._root(label) == root)
            )

        return [Stream(of(root, "writer"), of(root, "reader"), of(root, "norm"), of(root, "other")) for root in roots]
