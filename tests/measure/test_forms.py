"""Layers with several forms get the one that onnxruntime runs fastest; what is exported computes what torch does."""

import importlib

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.measure import forms, whole
from spectrim.nn.two_stage import TwoStageConv
from spectrim.training.exporting import export_onnx
from spectrim.zoo.resnet_cifar import resnet20
from tests.measure.test_settling import whole_clock

LAYERS = [f"layer3.{block}.conv{number}" for block in range(3) for number in (1, 2)]


@pytest.fixture
def rebuilt():
    torch.manual_seed(0)
    model = resnet20().eval()
    st.compress_(model, st.ReconstructedFilters(keep=0.5, groups=2), where="layer3.*")
    st.anneal_(model, 1.0)
    return model, torch.rand(1, 3, 32, 32)


def clock(monkeypatch, decided):
    """Times that are decided here, of forms that are run once: a plain convolution takes 1."""
    measured = []

    def times(modules, inputs):
        staged = [any(isinstance(each, TwoStageConv) for each in module) for module in modules]
        measured.extend(
            (type(module[0]), len(module), module(x).shape) for module, x in zip(modules, inputs, strict=True)
        )
        return [decided if each else 1.0 for each in staged]

    monkeypatch.setattr(forms, "onnx_times", times)
    whole_clock(monkeypatch, 0.5)
    return measured


@pytest.mark.parametrize(("time", "taken"), [(0.5, "two stages"), (0.99, "dense"), (2.0, "dense")])
def test_a_rebuilt_layer_is_dense_again_where_two_stages_lose(rebuilt, monkeypatch, time, taken):
    measured = clock(monkeypatch, time)
    model, x = rebuilt
    expected, choices = model(x), []
    st.finalize_(model, example=x, runtime="onnxruntime", choices=choices)
    last = choices.pop() if taken == "two stages" else None
    assert last is None or (last.site, last.taken) == ("(the model)", "as chosen")
    assert [each.site for each in choices] == LAYERS
    assert {each.taken for each in choices} == {taken}
    assert choices[0].ms == {"dense": 1.0, "two stages": time}
    kinds = {type(model.get_submodule(path)) for path in LAYERS}
    assert kinds == {TwoStageConv if taken == "two stages" else nn.Conv2d}
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    plain = [found for found in measured if found[1] == 5 and found[2][1] == 64]
    assert len(plain) == len(measured)  # each between neighbours as wide as it is
    assert len(measured) < 2 * len(LAYERS)  # five dense layers are alike, and measured once


def test_a_rebuilt_network_that_onnxruntime_runs_no_faster_is_dense_again(rebuilt, monkeypatch):
    clock(monkeypatch, 0.5)
    whole_clock(monkeypatch, 0.995)
    model, x = rebuilt
    expected, choices = model(x), []
    st.finalize_(model, example=x, runtime="onnxruntime", choices=choices)
    assert {each.taken for each in choices} == {"dense"}
    assert choices[-1].ms == {"dense": 1.0, "as chosen": 0.995}
    assert not any(isinstance(module, TwoStageConv) for module in model.modules())
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


def test_no_compiled_form_is_exported(rebuilt, monkeypatch):
    monkeypatch.setattr(TwoStageConv, "fuses", lambda _: True)
    layer = rebuilt[0].layer3[0].conv1
    assert list(layer.alternatives()) == ["two stages", "two stages, fused"]
    assert list(layer.alternatives(compiled=False)) == ["two stages"]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the onnx extra",
)
def test_two_stages_are_exported_with_what_they_compute(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, stride=2), nn.Conv2d(16, 16, 3, padding=1)).eval()
    st.compress_(model, st.ReconstructedFilters(keep=0.6, groups=2))
    st.anneal_(model, 1.0)
    x, choices = torch.rand(1, 3, 12, 12), []
    real = forms.onnx_times
    taken = []
    monkeypatch.setattr(
        forms,
        "onnx_times",
        lambda modules, inputs: taken.extend(real(modules, inputs, rounds=1)) or [2.0, 1.0, 2.0, 1.0],
    )
    real_graphs, both = whole.onnx_graphs, []
    monkeypatch.setattr(whole, "onnx_graphs", lambda *a: both.extend(real_graphs(*a)) or both)
    monkeypatch.setattr(whole, "_minima", lambda *_: {"dense": 2.0, "as chosen": 1.0})
    assert export_onnx(model, x, tmp_path / "model.onnx", choices) < 1e-4
    assert [each.taken for each in choices] == ["two stages", "two stages", "as chosen"]
    assert len(both) == 2
    assert len(taken) == 4
    assert all(each > 0 for each in taken)
