"""What banded convolutions take in torch beside the dense layers that they stand for: measured one by one, then all together."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spectrim.kernels.building import could_build
from spectrim.measure.choice import WHOLE, Choice, fastest, inputs_of, slower
from spectrim.measure.fused_forms import fuse_where_faster_
from spectrim.measure.settling import chain_where_faster_, dense_form
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.absorbing import absorbing, released_
from spectrim.surgery.beside import beside, ending
from spectrim.surgery.channels import still
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.fusing import unfused_
from spectrim.surgery.same import outputs_of, still_computes

_WHOLE_MARGIN = 0.03
_SECONDS, _WHOLE_SECONDS = 0.03, 0.2
"""To spend on timing each form of a layer, and of the whole model."""


def settle_bands_(model: nn.Module, example: Tensor, *, restore: bool) -> list[Choice]:
    """Put the form that runs in torch in the place of each banded convolution, and measure it against the dense layer.

    Args:
        model: With banded convolutions, trained or finalized. It computes what it did, unless frequencies are restored.
        example: One batch of the size and on the device where it will run.
        restore: Whether a layer whose bands do not run faster is the dense one again, with all frequencies; and all layers are,
            where the whole is no faster for the others.

    Returns:
        What was measured and taken: of each stream that can stay a spectrum (``apart``, ``chained`` or ``dense``), of each other layer
        (``dense`` or ``banded``), of each depthwise convolution with what stands beside it (``apart`` or ``fused``), and of the whole model under the name ``(the model)``, ``banded`` being the model as it is now. Layers that
        do not run are not in it.
    """
    if not any(isinstance(each, GroupedBandsConv2d | BandedPointwiseConv2d) for each in model.modules()):
        return []
    unfused_(model)
    released_(model)
    dense = _with_dense_layers(model)
    choices = chain_where_faster_(model, example, restore=restore)
    for layer in [each for each in model.modules() if isinstance(each, BandedPointwiseConv2d)]:
        replace_module_(model, layer, layer.finalized())  # with nothing cut it is dense
    choices += _each_layer_(model, dense, example, restore=restore)
    if not any(choice.taken in ("banded", "chained") for choice in choices):
        return choices
    choices += fuse_where_faster_(model, example)
    with still(model), still(dense):
        whole = fastest(
            {"dense": dense, "banded": model}, example, site=WHOLE, margin=_WHOLE_MARGIN, seconds=_WHOLE_SECONDS
        )
    if not restore:
        whole = replace(whole, taken="banded")
    elif whole.taken == "dense":
        unfused_(model)
        _become_(model, dense)
        choices = [replace(choice, taken="dense") for choice in choices if "dense" in choice.ms]
    return [*choices, whole]


def _each_layer_(model: nn.Module, dense: nn.Module, example: Tensor, *, restore: bool) -> list[Choice]:
    """Let each layer do the work of what stands beside it, and measure all that beside the same modules of the dense model."""
    paths = [path for path, each in model.named_modules() if path and isinstance(each, GroupedBandsConv2d)]
    known = beside(model, example, paths)
    befores = {ending(model, each.before) for each in known.values() if each.before is not None}
    inputs = inputs_of(model, [*known, *befores], example)
    expected = outputs_of(model, example)
    choices: list[Choice] = []
    undo: list[Callable[[], None]] = []

    def check() -> None:
        while undo and not still_computes(model, example, expected):
            undo.pop()()
        undo.clear()

    for path, neighbours in known.items():
        if path not in inputs:
            continue
        absorption = absorbing(model, path, neighbours)
        first = next(iter(absorption.after))
        banded = nn.Sequential(*absorption.after.values())
        plain = nn.Sequential(*(dense.get_submodule(each) for each in absorption.after))
        with still(banded), still(plain):
            choice = fastest({"dense": plain, "banded": banded}, inputs[first], site=path, seconds=_SECONDS)
        if not restore:
            choice = replace(choice, taken="banded")
        if choice.taken == "dense":
            check()
            replace_module_(model, model.get_submodule(path), dense.get_submodule(path))
            expected = outputs_of(model, example)
        else:
            undo.append(absorption.put_(model))
        choices.append(choice)
    check()
    return choices


def advice(choices: Sequence[Choice], example: Tensor) -> str | None:
    """One sentence to a user whose banded convolutions could run faster; None where there are none, or nothing is better known.

    Args:
        choices: What :func:`settle_bands_` measured.
        example: What it was measured on.
    """
    layers = [
        choice for choice in choices if choice.site != WHOLE and ("banded" in choice.ms or choice.taken == "chained")
    ]
    losing = [choice for choice in layers if _loses(choice)]
    kernels = example.is_cpu and example.dtype == torch.float32 and could_build()
    if not layers or not (losing or kernels):
        return None
    said, ways = "banded convolutions run in plain torch here", []
    if losing:
        worst = max(losing, key=lambda choice: choice.ms[choice.taken] / choice.ms["dense"])
        took = f"{worst.ms[worst.taken]:.3g} against {worst.ms['dense']:.3g} ms"
        said = (
            f"{len(losing)} of {len(layers)} banded convolutions run slower here than dense ones ({worst.site}: {took})"
        )
    if whole := next((choice for choice in choices if choice.site == WHOLE), None):
        said += f", the model in {whole.ms['banded']:.3g} ms, with dense ones in {whole.ms['dense']:.3g} ms"
    if kernels:
        ways.append("call spectrim.kernels.build() first (spectrim bench --kernels), which compiles a faster form once")
    if losing:
        ways.append(
            "finalize_(..., restore=True) (spectrim bench --restore), which gives layers that do not win all their frequencies back"
        )
    return f"{said}. To do: {'; or '.join(ways)}."


def _loses(choice: Choice) -> bool:
    """Whether what was taken runs slower than the dense form."""
    return slower(choice.ms[choice.taken], than=choice.ms["dense"])


def _with_dense_layers(model: nn.Module) -> nn.Module:
    """Another model of the same tensors, with all frequencies in the layers that have bands."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    dense = copy.deepcopy(model, dict(shared))
    for layer in list(dense.modules()):
        if isinstance(layer, GroupedBandsConv2d | BandedPointwiseConv2d):
            replace_module_(dense, layer, dense_form(layer))
    return dense


def _become_(model: nn.Module, other: nn.Module) -> None:
    """Put the modules of another model in the places of those without children that are of another class."""
    for name, there in list(model.named_children()):
        here = other.get_submodule(name)
        if type(there) is not type(here) and not list(there.children()):
            replace_module_(model, there, here)
        elif there is not here:
            _become_(there, here)
