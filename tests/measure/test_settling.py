"""Each banded convolution gets the form that onnxruntime runs fastest; what is exported computes what torch does."""

import importlib

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.errors import UnsupportedError
from spectrim.measure import settling, whole
from spectrim.nn import FlatBandsConv2d, GroupedBandsConv2d
from spectrim.training.exporting import export_onnx
from tests.surgery.test_chaining import Bottlenecks

LAYERS = ["stem.2", "blocks.0.0", "blocks.0.5", "blocks.1.0", "blocks.1.5", "head"]


def pruned():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = Bottlenecks().eval()
    return st.compress_(model, st.PointwisePruning(keep=0.3, pays="always", tie="stage"), calibration=x), x


def whole_clock(monkeypatch, ms):
    """The whole network takes so long, the dense one 1; what both compute."""
    outputs = []

    def graphs(nets, inputs):
        outputs[:] = [net(x) for net, x in zip(nets, inputs, strict=True)]
        return [b"", b""]

    monkeypatch.setattr(whole, "onnx_graphs", graphs)
    monkeypatch.setattr(whole, "_minima", lambda *_: {"dense": 1.0, "as chosen": ms})
    return outputs


def clock(monkeypatch, flat, chained, network=0.5):
    """Times that are decided here: a plain convolution takes 1."""

    def times(modules, inputs):
        for module, x in zip(modules, inputs, strict=True):
            module(x)  # it fits
        found = []
        for module in modules:
            layer = next((each for each in module if isinstance(each, FlatBandsConv2d)), None)
            linked = layer is not None and (layer.reads == "spectra" or layer.writes != "maps")
            found.append(1.0 if layer is None else chained if linked else flat)
        return found

    monkeypatch.setattr(settling, "onnx_times", times)
    return whole_clock(monkeypatch, network)


@pytest.mark.parametrize(
    ("flat", "chained", "chosen"), [(0.5, 0.4, "chained"), (0.5, 0.6, "flat"), (2, 1.5, "dense"), (0.99, 0.99, "dense")]
)
def test_the_fastest_form_is_chosen(monkeypatch, flat, chained, chosen):
    outputs = clock(monkeypatch, flat, chained)
    model, x = pruned()
    before, choices = model(x), []
    st.finalize_(model, example=x, runtime="onnxruntime", choices=choices)
    if chosen != "dense":
        last = choices.pop()
        assert (last.site, last.taken, last.ms) == ("(the model)", "as chosen", {"dense": 1.0, "as chosen": 0.5})
    assert [each.site for each in choices] == LAYERS
    assert {each.taken for each in choices} == {chosen}
    assert choices[0].ms == {"dense": 1.0, "flat": flat, "chained": chained}
    kinds = {type(model.get_submodule(path)) for path in LAYERS}
    assert kinds == {nn.Conv2d if chosen == "dense" else FlatBandsConv2d}
    dense = Bottlenecks().eval()(x)
    for found, expected in zip(outputs, (dense, before), strict=chosen != "dense"):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), dense if chosen == "dense" else before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chained", [0.4, 0.6])
def test_a_network_that_is_no_faster_as_a_whole_is_dense_again(monkeypatch, chained):
    clock(monkeypatch, 0.5, chained, network=0.98)
    model, x = pruned()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    choices = []
    st.finalize_(model, example=x, runtime="onnxruntime", choices=choices)
    assert {each.taken for each in choices} == {"dense"}
    assert (choices[-1].site, choices[-1].ms) == ("(the model)", {"dense": 1.0, "as chosen": 0.98})
    assert [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == norms
    assert {type(model.get_submodule(path)) for path in LAYERS} == {nn.Conv2d}
    torch.testing.assert_close(model(x), Bottlenecks().eval()(x), rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_exported_whole_keeps_what_its_layers_won(monkeypatch):
    clock(monkeypatch, 0.5, 0.6)

    def fails(*_):
        raise UnsupportedError("no")

    monkeypatch.setattr(whole, "onnx_graphs", fails)
    model, x = pruned()
    before, choices = model(x), []
    st.finalize_(model, example=x, runtime="onnxruntime", choices=choices)
    assert [(each.site, each.taken) for each in choices] == [(path, "flat") for path in LAYERS]
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_groups_are_opened_again(monkeypatch):
    clock(monkeypatch, 0.5, 0.6)
    model, x = pruned()
    before = model(x)
    st.finalize_(model)
    assert isinstance(model.head, GroupedBandsConv2d)
    st.finalize_(model, example=x, runtime="onnxruntime")
    assert isinstance(model.head, FlatBandsConv2d)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_without_an_example_there_is_nothing_to_measure():
    with pytest.raises(ValueError, match=r"runtime='onnxruntime'.*got no example"):
        st.finalize_(nn.Conv2d(1, 1, 1), runtime="onnxruntime")


def test_a_model_without_banded_convolutions_is_not_measured(monkeypatch):
    monkeypatch.setattr(settling, "onnx_times", None)
    st.finalize_(nn.Conv2d(1, 1, 1), example=torch.zeros(1, 1, 4, 4), runtime="onnxruntime")


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the onnx extra",
)
def test_what_is_exported_computes_what_torch_does(monkeypatch, tmp_path):
    clock(monkeypatch, 0.5, 0.4)
    model, x = pruned()
    choices = []
    assert export_onnx(model, x[:1], tmp_path / "model.onnx", choices) < 1e-4
    assert {each.taken for each in choices[:-1]} == {"chained"}
    assert choices[-1].taken == "as chosen"


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the onnx extra",
)
def test_the_clock_is_a_real_one():
    small, large = nn.Conv2d(8, 8, 1), nn.Conv2d(64, 256, 3, padding=1)
    found = settling.onnx_times(
        [settling.between(small, (8, 8)), settling.between(large, (64, None))],
        [torch.rand(1, 8, 7, 7), torch.rand(1, 64, 28, 28)],
        rounds=3,
    )
    assert 0 < found[0] < found[1]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the onnx extra",
)
def test_whole_networks_are_timed_in_processes_of_their_own():
    small, large = nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 64, 3))
    found = whole.whole_in_onnxruntime(large, small, torch.rand(1, 3, 32, 32))
    assert (found.site, found.taken) == ("(the model)", "as chosen")
    assert 0 < found.ms["as chosen"] < found.ms["dense"]
    assert whole.whole_in_onnxruntime(large, large, torch.rand(1, 3, 16, 16)).ms.keys() == {"dense", "as chosen"}
