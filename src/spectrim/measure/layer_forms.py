"""Which inference form each layer gets: measured one by one, then all together against a model of dense layers."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from spectrim.measure.choice import WHOLE, Choice, fastest, inputs_of
from spectrim.measure.forms import fastest_in_onnxruntime
from spectrim.measure.whole import whole_in_onnxruntime
from spectrim.nn.component import Layer, components
from spectrim.surgery.edits import replace_module_

_MARGIN = 0.03
"""By which share of the dense model's time that with the chosen forms must win."""
_SECONDS = 0.5
"""To spend on timing each of the two."""


def settle_layers_(model: nn.Module, example: Tensor, *, compiled: bool) -> list[Choice]:
    """Put the fastest inference form in the place of each layer that has several.

    Layers are measured one by one, each on its real input. What that does not see, such as a change of memory format between
    two layers, the whole model does: where it is then no faster than with dense layers alone, these are what it gets.

    Args:
        model: With layers that are components; those with a single form stay as they are.
        example: One batch of the size and on the device where it will run.
        compiled: Measure here, with compiled forms; otherwise in onnxruntime, which has none, on one thread.

    Returns:
        What was measured and taken, layer by layer, and for the whole model under the name ``(the model)`` where a layer
        won by itself.

    Raises:
        UnsupportedError: onnxruntime is not installed, or a form cannot be exported to it.
    """
    layers = {path: cast(Layer, each) for path, each in components(model)}
    others = {path: own for path, layer in layers.items() if (own := layer.alternatives(compiled=compiled))}
    inputs = inputs_of(model, list(others), example)
    forms: dict[str, dict[str, nn.Module]] = {
        path: {"dense": layers[path].finalized()} | others[path] for path in inputs
    }
    training = {path: layers[path].training for path in forms}
    for form in (form for each in forms.values() for form in each.values()):
        form.eval()
    if compiled:
        found = [fastest(forms[path], x, site=path) for path, x in inputs.items()]
    else:
        wide = {path: each["dense"].get_parameter("weight").shape[0] for path, each in forms.items()}
        found = fastest_in_onnxruntime(forms, inputs, wide)
    for choice in found:
        replace_module_(model, layers[choice.site], forms[choice.site][choice.taken])
    back = {
        forms[choice.site][choice.taken]: forms[choice.site]["dense"] for choice in found if choice.taken != "dense"
    }
    if back and (whole := _whole(model, back, example, compiled=compiled)) is not None:
        if whole.taken == "dense":
            for form, dense in back.items():
                replace_module_(model, form, dense)
            found = [replace(choice, taken="dense") for choice in found]
        found.append(whole)
    for path, each in forms.items():
        for form in each.values():
            form.train(training[path])
    return found


def _whole(model: nn.Module, back: Mapping[nn.Module, nn.Module], example: Tensor, *, compiled: bool) -> Choice | None:
    """The model as it is against one with other modules in the place of some; None where it is not to be run like this."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    dense = copy.deepcopy(model, dict(shared))  # another model of the same tensors
    for path, form in model.named_modules():
        if form in back:
            replace_module_(dense, dense.get_submodule(path), back[form])
    models = {"dense": dense, "as chosen": model}
    modes = {module: module.training for each in models.values() for module in each.modules()}
    try:
        for each in models.values():
            each.eval()
        if compiled:
            return fastest(models, example, site=WHOLE, margin=_MARGIN, seconds=_SECONDS)
        return whole_in_onnxruntime(dense, model, example)
    finally:
        for module, training in modes.items():
            module.training = training
