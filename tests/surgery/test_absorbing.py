"""A finalized banded convolution does the work of norms and activations beside it, where nothing else has to do with them."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import spectrim as st
from spectrim.measure import band_forms
from spectrim.nn import Absorbed, GroupedBandsConv2d
from spectrim.nn.limits import FREE, limits_of
from spectrim.surgery.absorbing import absorbing, released_
from spectrim.surgery.beside import Beside, beside
from tests.surgery.test_chaining import Bottlenecks


def norm(channels, *, affine=True):
    return Bottlenecks.norm(channels, affine=affine)


class Net(nn.Module):
    """A pointwise convolution with a norm and an activation behind it; who else reads what, the flags say."""

    def __init__(self, *, residual=False, functional=False, twice=False, returned=False):
        super().__init__()
        torch.manual_seed(0)
        self.flags = residual, functional, twice, returned
        self.first, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(inplace=True)
        self.point, self.norm, self.act = nn.Conv2d(8, 16, 1, bias=False), norm(16), nn.ReLU6()
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        residual, functional, twice, returned = self.flags
        before = self.relu(self.first(x))
        y = self.point(before)
        normed = self.norm(y)
        z = F.relu6(normed) if functional else self.act(normed)
        if residual:
            z = z + normed
        if twice:
            z = self.act(z)
        out = self.last(z)
        return (out, before) if returned else out


def finalized(model, x, **settings):
    st.compress_(model.eval(), st.PointwisePruning(keep=0.5, pays="always", **settings), calibration=x)
    expected = model(x)
    return st.finalize_(model, example=x), expected


def batch(side=16):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("flags", "point", "last"),
    [
        ({}, Beside("relu", ("norm", "act")), Beside("act")),
        ({"residual": True}, Beside("relu", ("norm",)), Beside()),
        ({"functional": True}, Beside("relu", ("norm",)), Beside()),
        ({"twice": True}, Beside("relu", ("norm",)), Beside()),
        ({"returned": True}, Beside(None, ("norm", "act")), Beside("act")),
    ],
    ids=str,
)
def test_only_what_nothing_else_reads_stands_beside(flags, point, last):
    model = Net(**flags)
    assert beside(model, batch(), ["point", "last"]) == {"point": point, "last": last}
    assert model.training


@pytest.mark.parametrize(
    "flags", [{}, {"residual": True}, {"functional": True}, {"twice": True}, {"returned": True}], ids=str
)
def test_the_model_computes_what_it_did(flags):
    model, expected = finalized(Net(**flags), batch())
    for one, other in zip(model(batch()), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert isinstance(model.norm, Absorbed)
    assert isinstance(model.act, Absorbed) != bool(flags.keys() & {"residual", "functional", "twice"})
    assert isinstance(model.relu, Absorbed) != flags.get("returned", False)


def test_one_activation_between_two_layers_is_done_once():
    model, _ = finalized(Net(), batch())
    assert (model.point.read, model.point.written) == ((0.0, 6.0), (0.0, 6.0))
    assert (model.last.read, model.last.written) == (FREE, FREE)
    assert not list(model.act.state_dict()) + list(model.norm.state_dict())


def test_activations_are_in_their_places_again_where_layers_are_released():
    model, expected = finalized(Net(), batch())
    released_(model)
    assert (model.point.read, model.point.written) == (FREE, FREE)
    assert limits_of(model.relu) == limits_of(model.act) == (0.0, 6.0)
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-5)
    again = st.finalize_(model, example=batch())
    torch.testing.assert_close(again(batch()), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(again.act, Absorbed)


def test_a_file_holds_what_was_absorbed(tmp_path):
    model, expected = finalized(Net(), batch())
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    fresh = st.load_(Net().eval(), tmp_path / "model.safetensors")
    assert isinstance(fresh.norm, Absorbed)
    assert fresh.act.limits == fresh.point.written == (0.0, 6.0)
    torch.testing.assert_close(fresh(batch()), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_without_scale_goes_into_the_weight_too():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm(8, affine=False), nn.Hardtanh(-0.5, 0.5), nn.Conv2d(8, 4, 3))
    model, expected = finalized(model, batch())
    assert model[0].written == (-0.5, 0.5)
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-5)


def test_an_activation_that_does_more_than_clamp_stays():
    model, expected = finalized(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.LeakyReLU()), batch()
    )
    assert [type(each) for each in model] == [GroupedBandsConv2d, nn.SiLU, GroupedBandsConv2d, nn.LeakyReLU]
    torch.testing.assert_close(model(batch()), expected)


def test_a_norm_that_brings_its_activation_along_is_absorbed_too(monkeypatch):
    monkeypatch.setattr(band_forms, "chain_where_faster_", lambda *_, **__: [])
    model, expected = finalized(timm.create_model("mobilenetv2_035"), batch(64), score="energy")
    block = model.get_submodule("blocks.1.0")
    assert isinstance(block.bn1, Absorbed)
    assert type(block.bn2) is nn.BatchNorm2d, "what follows a depthwise convolution is a norm alone"
    assert block.conv_pwl.read == (0.0, 6.0)
    torch.testing.assert_close(model(batch(64)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("found", [[0], [1, "six"], [math.inf, 1], {"low": 1}], ids=str)
def test_limits_in_a_file_are_two_numbers(found):
    with pytest.raises(ValueError, match="must be two numbers, null where there is no limit"):
        Absorbed.from_spec({"limits": found})
    with pytest.raises(ValueError, match="the lower one first"):
        Absorbed.from_spec({"limits": [2, 1]})
    with pytest.raises(ValueError, match="and nothing else"):
        Absorbed.from_spec({"more": 1})


def test_nothing_is_put_in_before_it_is_asked():
    model = Net().eval()
    st.compress_(model, st.PointwisePruning(keep=0.5, pays="always"), calibration=batch())
    st.finalize_(model)
    before = [type(each) for each in model.modules()]
    absorption = absorbing(model, "point", beside(model, batch(), ["point"])["point"])
    assert list(absorption.after) == ["relu", "point", "norm", "act"]
    assert [type(each) for each in model.modules()] == before
    back = absorption.put_(model)
    assert isinstance(model.norm, Absorbed)
    back()
    assert [type(each) for each in model.modules()] == before
