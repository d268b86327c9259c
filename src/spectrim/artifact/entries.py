"""The tensors that a model's file holds: parameters and persistent buffers by their names, shared ones as one."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectrim.errors import UnsupportedError
from spectrim.nn.component import Codec
from spectrim.surgery.sites import coded, dotted, parametrized


@dataclass(frozen=True)
class Slot:
    """A place in a model that holds a parameter or a buffer.

    Attributes:
        module: That holds it.
        attribute: Its name there.
        tensor: What it holds now.
    """

    module: nn.Module
    attribute: str
    tensor: Tensor


def bare(model: nn.Module) -> nn.Module:
    """The user's model inside what ``torch.compile`` and data parallelism wrap around it, whose names differ.

    >>> bare(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while True:
        children = dict(model.named_children())
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = children["module"]
        elif list(children) == ["_orig_mod"]:
            model = children["_orig_mod"]
        else:
            return model


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every parameter and persistent buffer of a model by name, without the codes and what their codecs keep.

    Raises:
        UnsupportedError: There is state in the model that is no initialised tensor, or a codec among foreign
            parametrizations.

    >>> list(slots(nn.BatchNorm2d(1)))
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    hidden = {
        id(tensor) for each in coded(model) for tensor in (each.code, *each.codec.state_dict(keep_vars=True).values())
    }
    for site, stack in parametrized(model):
        if any(isinstance(module, Codec) for module in stack) and len(stack) > 1:
            raise UnsupportedError(
                f"{site.name!r} is coded and also parametrized by something else, which a file cannot tell. "
                "Remove the other parametrization first."
            )
    persistent = model.state_dict(keep_vars=True)
    found: dict[str, Slot] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        members = (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
        for attribute, tensor in members:
            name = dotted(path, attribute)
            if name in persistent and id(tensor) not in hidden:
                if is_lazy(tensor):
                    raise UnsupportedError(f"{name!r} is not initialised. Run one batch through the model first.")
                found[name] = Slot(module, attribute, tensor)
    for name, state in persistent.items():
        if name not in found and id(state) not in hidden:
            raise UnsupportedError(
                f"{name!r} is state of type {type(state).__name__} that is neither parameter nor buffer of the model; "
                "a file holds tensors only. Register it as a buffer."
            )
    return found


def aliases(found: Mapping[str, Slot]) -> dict[str, str]:
    """Names that are the very tensor of an earlier name: alias to that name.

    >>> layer = nn.Linear(1, 1)
    >>> aliases(slots(nn.Sequential(layer, layer)))
    {'1.weight': '0.weight', '1.bias': '0.bias'}
    """
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, slot in found.items():
        if first.setdefault(id(slot.tensor), name) != name:
            ties[name] = first[id(slot.tensor)]
    return ties
