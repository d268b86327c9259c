"""Which inference form each banded convolution of a model gets: measured where the model will run, alone and in chains."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spectrim.measure.choice import Choice, fastest, inputs_of
from spectrim.measure.onnx_forms import between, onnx_times
from spectrim.measure.whole import whole_in_onnxruntime
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.absorbing import released_
from spectrim.surgery.chaining import Chain, chains
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.fusing import unfused_
from spectrim.surgery.same import outputs_of, still_computes

_MARGIN = 0.03
"""By which share of the time a form must beat the plain one."""
_CHAIN_MARGIN = 0.05
"""Likewise, of a chain in torch."""


def settle_for_onnxruntime_(model: nn.Module, example: Tensor) -> list[Choice]:
    """Put in the place of each banded convolution the form that onnxruntime runs fastest.

    Where the cut form loses, the layer becomes the dense convolution again: frequencies that were cut come back. A whole stream is
    chained where that is faster than its layers one by one, and only if the model then computes what it did. If the network as a whole is
    no faster there than with dense layers, all of them are dense again.

    Args:
        model: With banded convolutions.
        example: One batch of the size that it will run on.

    Returns:
        What was measured in onnxruntime and taken: ``dense`` keeps all frequencies, ``flat`` is :class:`spectrim.nn.FlatBandsConv2d`,
        ``chained`` that without the transforms inside of a stream; where something is cut, the network as a whole comes last. Layers that
        do not run are not in it, and stay.

    Raises:
        UnsupportedError: A library is missing, or a form cannot be exported.
    """
    unfused_(model)
    released_(model)
    for each in [module for module in model.modules() if isinstance(module, GroupedBandsConv2d)]:
        replace_module_(model, each, _opened(each))
    banded = {path: each for path, each in model.named_modules() if isinstance(each, BandedPointwiseConv2d)}
    inputs = inputs_of(model, list(banded), example)
    banded = {path: layer for path, layer in banded.items() if path in inputs}
    if not banded:
        return []
    linked = chains(model, example)
    forms = {path: {"dense": _dense(layer), "flat": _flat(layer)} for path, layer in banded.items()}
    for chain in linked:
        for path, joined in chain.layers.items():
            forms[path]["chained"] = joined
    times = _times(model, example, forms, inputs, linked)
    chosen = {path: "flat" if each["flat"] < (1 - _MARGIN) * each["dense"] else "dense" for path, each in times.items()}
    may_cut = bool(linked) or "flat" in chosen.values()
    plain, backs = _with_dense_layers(model, banded) if may_cut else None, []
    for chain in linked:
        apart = sum(times[path][chosen[path]] for path in chain.layers)
        together = sum(times[path]["chained"] for path in chain.layers)
        if together < (1 - _MARGIN) * apart and (back := _joined_(model, chain, example)) is not None:
            backs.append(back)
            chosen |= dict.fromkeys(chain.layers, "chained")
    for path, layer in banded.items():
        if chosen[path] != "chained":
            replace_module_(model, layer, forms[path][chosen[path]].train(layer.training))
    cut = any(form != "dense" for form in chosen.values())
    whole = whole_in_onnxruntime(plain, model, example) if cut and plain is not None else None
    if whole is not None and whole.taken == "dense":
        for back in reversed(backs):
            back()
        for path, layer in banded.items():
            replace_module_(model, model.get_submodule(path), forms[path]["dense"].train(layer.training))
        chosen = dict.fromkeys(chosen, "dense")
    found = [Choice(path, tuple(inputs[path].shape), times[path], chosen[path]) for path in banded]
    return found if whole is None else [*found, whole]


def chain_where_faster_(model: nn.Module, example: Tensor, *, restore: bool = False) -> list[Choice]:
    """Chain the streams of banded convolutions that run faster so in torch than their layers one by one.

    Args:
        model: With banded convolutions; it computes what it did, or is as before.
        example: One batch of the size and on the device where it will run.
        restore: Whether a stream stays apart that does not beat dense layers either, which its layers are to become.

    Returns:
        What was measured and taken; of a stream together, under the name of the first layer that writes it. Its dense layers are measured too,
        and never taken.
    """
    found = []
    for chain in chains(model, example):
        inputs = inputs_of(model, list(chain.layers), example)
        apart = _Members({path: _banded(model, path).finalized() for path in chain.layers}, inputs)
        dense = _Members({path: _dense(_banded(model, path)) for path in chain.layers}, inputs)
        back = chain.join_(model)
        joined = _Members(chain.layers, inputs_of(model, list(chain.layers), example))
        back()
        forms: dict[str, nn.Module] = {"apart": apart, "chained": joined, "dense": dense}
        choice = fastest(forms, example, site=chain.stream.writers[0])
        to_beat = [choice.ms["apart"]] + [choice.ms["dense"]] * restore
        wins = choice.ms["chained"] < (1 - _CHAIN_MARGIN) * min(to_beat)
        joins = wins and _joined_(model, chain, example) is not None
        found.append(replace(choice, taken="chained" if joins else "apart"))
    return found


def dense_form(layer: BandedPointwiseConv2d | GroupedBandsConv2d) -> nn.Module:
    """The convolution or linear layer with nothing cut."""
    opened = _opened(layer) if isinstance(layer, GroupedBandsConv2d) else layer
    assert isinstance(opened, BandedPointwiseConv2d)  # noqa: S101 - it is one
    return _dense(opened).train(layer.training)


class _Members(nn.Module):
    """The layers of a stream, each on the input that it has in the model."""

    def __init__(self, layers: Mapping[str, nn.Module], inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.pairs = [(layer.eval(), inputs[path]) for path, layer in layers.items()]

    def forward(self, _: Tensor) -> None:
        for layer, x in self.pairs:
            layer(x)


def _opened(groups: GroupedBandsConv2d) -> nn.Module:
    """The convolution or linear layer that was finalized into groups."""
    layer = BandedPointwiseConv2d.from_spec(groups.geometry.to_json())
    source = groups.source.long()
    with torch.no_grad():
        layer.geometry.as_convolution(layer.weight)[:, source.cpu(), 0, 0] = groups.weight.cpu().T.to(layer.weight)
        if layer.bias is not None and groups.bias is not None:
            layer.bias.copy_(groups.bias)
        kept = torch.tensor([kept for size, kept in groups.groups for _ in range(size)], dtype=layer.kept.dtype)
        layer.kept[source.cpu()] = kept
    return layer.to(groups.weight.device, groups.weight.dtype).train(groups.training)


def _banded(model: nn.Module, path: str) -> BandedPointwiseConv2d:
    layer = model.get_submodule(path)
    assert isinstance(layer, BandedPointwiseConv2d)  # noqa: S101 - chains have no others
    return layer


def _dense(layer: BandedPointwiseConv2d) -> nn.Module:
    """The convolution with nothing cut."""
    whole = BandedPointwiseConv2d.from_spec(layer.geometry.to_json())
    whole.weight, whole.bias = layer.weight, layer.bias
    return whole.to(layer.weight.device).finalized()


def _flat(layer: BandedPointwiseConv2d) -> nn.Module:
    kept = layer.kept.long()
    if bool((kept == layer.geometry.frequencies).all()):
        return _dense(layer)
    return FlatBandsConv2d.of(layer.geometry, layer.geometry.as_convolution(layer.weight), layer.bias, kept)


def _times(
    model: nn.Module,
    example: Tensor,
    forms: Mapping[str, Mapping[str, nn.Module]],
    inputs: Mapping[str, Tensor],
    linked: Sequence[Chain],
) -> dict[str, dict[str, float]]:
    """Milliseconds of every form, beside what stands on its wide side; all from one export."""
    backs = [chain.join_(model) for chain in linked]
    spectra = inputs_of(model, [path for chain in linked for path in chain.stream.readers], example)
    for back in reversed(backs):
        back()
    writers = {path for chain in linked for path in chain.stream.writers}
    readers = {path for chain in linked for path in chain.stream.readers}
    names: dict[tuple[str, str], int] = {}
    plain: dict[tuple[object, ...], int] = {}  # convolutions of the same sizes take the same time
    modules: list[nn.Module] = []
    arguments: list[Tensor] = []
    for path, each in forms.items():
        last = isinstance(each["dense"], nn.Linear)
        channels = inputs[path].shape[-1 if last else 1]
        out = each["dense"].get_parameter("weight").shape[0]
        for name, form in each.items():
            sides = (None if path in readers else channels, None if path in writers else out)
            if isinstance(form, nn.Conv2d | nn.Linear):
                alike = (inputs[path].shape, out, getattr(form, "stride", None), form.bias is None, sides)
                names[path, name] = plain.setdefault(alike, len(modules))
                if names[path, name] < len(modules):
                    continue
            names[path, name] = len(modules)
            modules.append(between(form, sides, last=last).to(inputs[path].dtype))
            given = spectra[path] if name == "chained" and path in readers else inputs[path]
            arguments.append(given.movedim(-1, 1) if last else given)
    found: dict[str, dict[str, float]] = {path: {} for path in forms}
    devices = {parameter.device for parameter in model.parameters()}
    took = onnx_times(modules, arguments)
    for (path, name), number in names.items():
        found[path][name] = took[number]
    for module in modules:
        module.to(next(iter(devices)))
    return found


def _with_dense_layers(model: nn.Module, banded: Mapping[str, BandedPointwiseConv2d]) -> nn.Module:
    """A copy in which nothing is cut."""
    plain = copy.deepcopy(model)
    for path, layer in banded.items():
        replace_module_(plain, plain.get_submodule(path), _dense(layer))
    return plain


def _joined_(model: nn.Module, chain: Chain, example: Tensor) -> Callable[[], None] | None:
    """Put a chain in if the model then computes what it did: what takes it out again, or None."""
    expected = outputs_of(model, example)
    back = chain.join_(model)
    if still_computes(model, example, expected):
        return back
    back()
    return None
