"""Cuts tried on the smallest module that holds all of one, while the whole model runs once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.errors import PlanError, first_line
from spectrim.surgery.prune import PruneChannels

_CROWD = 4
"""With more edits than this in one module, running it once for each is no longer cheap beside the whole model."""


@torch.no_grad()
def failing(model: nn.Module, edits: Sequence[PruneChannels], inputs: Sequence[Any]) -> dict[str, str]:
    """The edits with which the module around them raises, and what it says, each tried by itself.

    An edit that stays inside one module leaves alone what goes in there. So the module raises by itself exactly where it would
    raise in the whole model, and one pass of that finds all such edits of a network of blocks. A module that raises nothing may
    still compute something else: that is not asked here.

    Args:
        model: In evaluation mode; it is as before afterwards.
        edits: That fit it. Those that reach across modules are passed over.
        inputs: Arguments of the forward.
    """
    inside: dict[str, list[PruneChannels]] = {}
    for edit in edits:
        inside.setdefault(_home(edit), []).append(edit)
    found: dict[str, str] = {}
    running = False

    def trying(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal running
            if running:  # a cut module that is tried runs modules of its own
                return
            running = True
            try:
                for edit in inside[path]:
                    if reason := _raised(model, module, edit, args, kwargs):
                        found.setdefault(edit.path, reason)
            finally:
                running = False

        return hook

    hooks = [
        model.get_submodule(path).register_forward_pre_hook(trying(path), with_kwargs=True)
        for path, some in inside.items()
        if path and len(some) <= _CROWD
    ]
    try:
        model(*inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _home(edit: PruneChannels) -> str:
    """The path of the smallest module that owns every tensor of an edit; empty where that is the model."""
    owners = [name.split(".")[:-1] for cut in edit.cuts for name, _, _ in cut.tensors]
    shared = []
    for parts in zip(*owners, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _raised(
    model: nn.Module, module: nn.Module, edit: PruneChannels, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    try:
        undo = PruneChannels.prepare_together([edit], model)[0]()
    except PlanError:
        return ""
    try:
        module.forward(*_copied(args), **_copied(kwargs))
    except Exception as error:  # noqa: BLE001 - a stranger's forward may raise anything
        return first_line(error)
    finally:
        undo()
    return ""


def _copied(value: Any) -> Any:
    """Tensors of its own, as a forward may write into what it is given."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (tuple, list) else value
