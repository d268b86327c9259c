"""From a file into a model of the user's own architecture."""

import os
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from spectrim.artifact.entries import bare
from spectrim.artifact.fitting import Fitted, fit
from spectrim.artifact.places import Place
from spectrim.artifact.reader import read
from spectrim.errors import ArtifactError
from spectrim.surgery.edits import ParametrizeTensor, replace_module_
from spectrim.surgery.plan import Plan
from spectrim.surgery.rules import settle_
from spectrim.surgery.sites import coded


def load_(model: nn.Module, path: str | os.PathLike[str], *, decode: bool = True) -> nn.Module:
    """Fill a model from a file that :func:`spectrim.save` wrote. Nothing in the file is executed.

    Args:
        model: The architecture as its author wrote it, with any numbers in it, on any device, ``meta`` included. Where the
            file holds a network with fewer channels, its layers get smaller.
        path: Of the file.
        decode: Whether coded tensors become ordinary weights. Otherwise they stay coded, with the kept counts of the
            file, so that training can go on.

    Returns:
        The model.

    Raises:
        ArtifactError: The file is damaged or does not fit the model, which is then as it was; names the entry.

    >>> import tempfile
    >>> from spectrim.artifact import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     _ = save(nn.Linear(2, 2, bias=False), path)
    ...     load_(nn.Linear(2, 2, bias=False), path)
    Linear(in_features=2, out_features=2, bias=False)
    """
    artifact = read(path)
    try:
        inner = bare(model)
        fitted = fit(inner, artifact)
        edits = [] if decode else _edits(inner, fitted)
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error}") from error
    _make_(inner, fitted, Plan(method="load_", model=type(inner).__name__, edits=tuple(edits)))
    return model


def _edits(model: nn.Module, fitted: Fitted) -> list[ParametrizeTensor]:
    edits = []
    for entry, place, _ in fitted.codes:
        if any(slot.module is not place.slots[0].module for slot in place.slots):
            raise ArtifactError(
                f"{entry.path!r} is shared by several modules of {type(model).__name__}, of which one would be coded. "
                "Load with decode=True."
            )
        path, _, tensor = entry.path.rpartition(".")
        edits.append(ParametrizeTensor(path, tensor, entry.kind, entry.spec))
    return edits


def _make_(model: nn.Module, fitted: Fitted, plan: Plan) -> None:
    """Change the model. What could fail comes first and is undone; then numbers are copied."""
    with ExitStack() as undo, torch.no_grad():
        for path, layer in fitted.layers.items():
            undo.callback(replace_module_(model, model.get_submodule(path), layer))
        for layer_to_cut, sizes in fitted.sizes:
            undo.callback(settle_(layer_to_cut, sizes))
        for place, value in fitted.values:
            if place.replaced:
                undo.callback(_put_, place, place.tensor)
                _put_(place, value)
        plan.apply_(model)
        undo.pop_all()
    kept_coded = {edit.site for edit in plan.edits}
    with torch.no_grad():
        codes = {entry.path: code for entry, _, code in fitted.codes}
        for each in coded(model):
            each.code.copy_(codes[each.site])
        for place, value in fitted.values:
            if not place.replaced and kept_coded.isdisjoint(place.names):
                place.tensor.copy_(value)


def _put_(place: Place, value: Tensor) -> None:
    """Put another tensor in a place; a parameter stays one, trainable as before."""
    before = place.tensor
    if isinstance(before, nn.Parameter) and not isinstance(value, nn.Parameter):
        value = nn.Parameter(value, requires_grad=before.requires_grad)
    for slot in place.slots:
        setattr(slot.module, slot.attribute, value)
