"""Layers that run in one pass with a depthwise convolution are measured there."""

import shutil

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.kernels import build
from spectrim.methods import pointwise_forms, pointwise_time
from spectrim.methods.pointwise_forms import grouped_layer, insides, ones, plain_layer
from spectrim.nn import FusedDepthwise, GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry
from tests.surgery.bottleneck import Net, image
from tests.surgery.test_chaining import Bottlenecks


@pytest.fixture(scope="module", autouse=True)
def compiled():
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("needs a C++ compiler and ninja")
    assert build()


def test_a_layer_is_found_inside_of_its_block():
    found = insides(Net().eval(), image(18), ["expand", "project", "elsewhere"])
    assert {path: (each.side, each.inputs, each.size) for path, each in found.items()} == {
        "expand": ("expand", 6, (16, 16)),
        "project": ("project", 6, (16, 16)),
    }
    assert found["expand"].outside(((0.0, 1.0), (0.0, 6.0))) == ((0.0, 1.0), pointwise_forms.FREE)
    assert found["project"].outside(((0.0, 1.0), (0.0, 6.0))) == (pointwise_forms.FREE, (0.0, 6.0))


@pytest.mark.parametrize("side", ["expand", "project"])
def test_its_forms_are_blocks_that_run_compiled(side):
    inside = insides(Net().eval(), image(18), [side])[side]
    geometry = Geometry(6, 12, (8, 8)) if side == "expand" else Geometry(12, 5, (8, 8))
    clamps = ((0.0, 6.0), (0.0, 6.0))
    x = ones(geometry, (16, 16), torch.channels_last, inside)
    assert x.shape == (1, 6, 16, 16)
    plain = plain_layer(geometry, torch.channels_last, clamps, inside)
    cut = grouped_layer(geometry, torch.full((geometry.in_channels,), 3), clamps, inside)
    assert isinstance(cut.get_submodule(side), GroupedBandsConv2d)
    with torch.no_grad():
        assert cut.compiled() is not None
        assert plain(x).shape == cut(x).shape == (1, 5, 16, 16)
    assert sorted(type(each).__name__ for each in plain) == ["FusedDepthwise", "Hardtanh"]


def test_the_plan_measures_them_there(monkeypatch):
    seen = []

    def least(forms, x, **_):
        seen.append([type(each) for each in forms])
        return [3.0, 1.0, 2.0][: len(forms)]

    monkeypatch.setattr(pointwise_time, "least_seconds", least)
    monkeypatch.setattr(
        pointwise_time, "paired_latency", lambda models, *_, **__: st.measure.Comparison({
            name: st.measure.Latency(rounds_ms=(1.0 if name == "dense" else 0.5,), repeats=1, threads=1, device="cpu")
            for name in models
        }),
    )  # fmt: skip
    st.plan(Bottlenecks().eval(), st.PointwisePruning(target="time:0.8"), calibration=image(16, 4))
    inside = [forms for forms in seen if FusedDepthwise in forms]
    assert len(inside) == 4  # two blocks, two sides
    assert len(seen) == 6


def test_nothing_is_inside_where_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(pointwise_forms, "built", lambda: False)
    assert insides(Net().eval(), image(18), ["expand"]) == {}


def test_no_depthwise_convolution_no_block():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    assert insides(net, image(18), ["0", "2"]) == {}
