"""What frequencies are worth as a table, as JSON and as a picture."""

import json
import math

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.report import FrequencyInspection
from spectrim.surgery.sensitivity import Sensitivity

METHOD = st.PointwisePruning(keep=0.4, pays="always")


def smooth(count=8, size=16):
    generator = torch.Generator().manual_seed(0)
    octaves = [torch.randn(count, 3, side, side, generator=generator) for side in (2, 4, 8, size)]
    return sum(nn.functional.interpolate(each, size=(size, size), mode="bilinear") / each.shape[-1] for each in octaves)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 1)
    ).eval()


def test_bands_are_those_of_the_plan_and_the_worth_of_smooth_maps_falls():
    model, before = net(), net().state_dict()
    found = st.inspect_frequencies(model, METHOD, calibration=smooth())
    plan = st.plan(model, METHOD, calibration=smooth())
    assert {each.path: each.kept for each in found.layers} == {e.path: tuple(e.spec["kept"]) for e in plan.edits}
    assert [tuple(each.worth.shape) for each in found.layers] == [(16, 63), (24, 63)]
    assert all(-1 <= each.falls < -0.5 for each in found.layers)
    low, middle, high = found.layers[0].quantiles()
    assert 0 < low <= middle <= high <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_of_noise_no_frequency_is_worth_more_than_another():
    noise = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = st.PointwisePruning(keep=0.4, pays="always", score="energy")
    found = st.inspect_frequencies(nn.Sequential(nn.Conv2d(3, 8, 1)), method, calibration=noise)
    assert abs(found.layers[0].falls) < 0.4


def test_a_layer_that_tells_nothing_apart_has_no_correlation():
    same = Sensitivity("conv", (2, 2), torch.ones(4, 3), None)
    assert math.isnan(same.falls)
    found = FrequencyInspection(method="m", model="Net", layers=(same,))
    assert "rank correlation of" not in found.headline()
    assert same.quantiles() is None


def test_what_is_not_read_is_named():
    found = st.inspect_frequencies(net(), METHOD, where="2", calibration=smooth())
    assert [each.path for each in found.layers] == ["2"]
    assert "not read:" in str(found)
    assert "left dense by where" in str(found)


def test_the_numbers_go_through_json():
    document = json.loads(json.dumps(st.inspect_frequencies(net(), METHOD, calibration=smooth()).to_json()))
    first = document["layers"][0]
    assert sum(map(sum, first["worth"])) == pytest.approx(1, abs=1e-2)
    assert len(first["kept"]) == len(first["worth"]) == 16


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_drawn(tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = st.inspect_frequencies(net(), METHOD, calibration=smooth()).draw(tmp_path / f"frequencies.{ending}")
    assert path.stat().st_size > 5_000
    if ending == "svg":
        assert "the line is where each channel" in path.read_text(encoding="utf-8")


def test_nothing_to_draw_and_an_unknown_format_are_said(tmp_path):
    pytest.importorskip("matplotlib")
    found = st.inspect_frequencies(net(), METHOD, calibration=smooth())
    with pytest.raises(st.UnsupportedError, match="found no picture format in its ending"):
        found.draw(tmp_path / "frequencies.doc")
    with pytest.raises(ValueError, match="found no pointwise convolution"):
        FrequencyInspection(method="m", model="Net", layers=()).draw(tmp_path / "f.png")
