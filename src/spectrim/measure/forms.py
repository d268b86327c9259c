"""Which of the forms of each layer onnxruntime runs fastest, every form between neighbours like those that it has."""

from collections.abc import Mapping

from torch import Tensor, nn

from spectrim.measure.choice import Choice
from spectrim.measure.onnx_forms import between, onnx_times
from spectrim.nn.component import Component

_MARGIN = 0.03
"""By which share of the first form's time another must win."""


def fastest_in_onnxruntime(
    forms: Mapping[str, Mapping[str, nn.Module]], inputs: Mapping[str, Tensor], outputs: Mapping[str, int]
) -> list[Choice]:
    """Measure the forms of several layers in onnxruntime, on one thread.

    Args:
        forms: For the name of each layer its forms by their names, in evaluation mode; the first is the one to beat.
        inputs: What each layer reads, with a batch.
        outputs: How many channels each layer writes.

    Returns:
        What was measured and is the fastest, layer by layer.

    Raises:
        UnsupportedError: A library is missing, or a form cannot be exported.
    """
    places: dict[tuple[str, str], int] = {}
    known: dict[tuple[object, ...], int] = {}  # what is of the same sizes takes the same time
    modules: list[nn.Module] = []
    arguments: list[Tensor] = []
    for path, each in forms.items():
        x = inputs[path]
        sides = (x.shape[1], outputs[path]) if x.ndim == 4 else (None, None)
        for name, form in each.items():
            sizes = sorted(form.spec().items()) if isinstance(form, Component) else form
            number = known.setdefault((type(form), str(sizes), x.shape), len(modules))
            if number == len(modules):
                modules.append(between(form, sides).to(x.dtype))
                arguments.append(x)
            places[path, name] = number
    homes = [next(module.parameters()).device for module in modules]
    took = onnx_times(modules, arguments) if modules else []
    for module, home in zip(modules, homes, strict=True):
        module.to(home)
    found = []
    for path, each in forms.items():
        ms = {name: took[places[path, name]] for name in each}
        first, best = next(iter(ms)), min(ms, key=lambda name: ms[name])
        taken = best if ms[best] < (1 - _MARGIN) * ms[first] else first
        found.append(Choice(path, tuple(inputs[path].shape), ms, taken))
    return found
