"""A finalized banded convolution does the work of norms and activations beside it, where nothing else has to do with them."""

import copy
import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import spectrim as st
from spectrim.measure import band_forms
from spectrim.measure.choice import Choice
from spectrim.nn import Absorbed, GroupedBandsConv2d
from spectrim.nn.limits import FREE, limits_of
from spectrim.surgery.absorbing import absorbing, released_
from spectrim.surgery.beside import Beside, beside, clamp_of, clamps_beside
from spectrim.surgery.same import same
from tests.surgery.test_chaining import Bottlenecks


def norm(channels, *, affine=True):
    return Bottlenecks.norm(channels, affine=affine)


@pytest.fixture(autouse=True)
def _one_by_one(monkeypatch):
    """What is absorbed is looked at here, and not fused away."""
    monkeypatch.setattr(band_forms, "fuse_where_faster_", lambda *_: [])


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


def clock(taken):
    """One by which a form is the fastest."""
    return lambda forms, x, site, **_: Choice(site, tuple(x.shape), {**dict.fromkeys(forms, 1.0), taken: 0.5}, taken)


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


def bottleneck():
    """One of timm's: its norms bring their activations along."""
    torch.manual_seed(0)
    norms = [timm.layers.BatchNormAct2d(*each) for each in ((16,), (16,), (8,))]
    norms[2].act = nn.Identity()
    for each, act in zip(norms[:2], (nn.ReLU6, nn.ReLU), strict=True):
        each.act = act(inplace=True)
        each.load_state_dict(norm(16).state_dict())
    wide = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    return nn.Sequential(nn.Conv2d(3, 16, 1), norms[0], wide, norms[1], nn.Conv2d(16, 8, 1), norms[2]).eval()


def test_a_norm_that_brings_its_activation_along_is_absorbed_too(tmp_path):
    model, expected = finalized(bottleneck(), batch())
    assert model[1].limits == (0.0, 6.0)
    assert isinstance(model[3], nn.BatchNorm2d), "what follows a depthwise convolution is a norm alone"
    assert model[3].act.limits == model[4].read == (0.0, math.inf)
    assert model[5].limits == FREE
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-5)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    fresh = st.load_(bottleneck(), tmp_path / "model.safetensors")
    torch.testing.assert_close(fresh(batch()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", [released_, lambda model: st.finalize_(model, example=batch())])
def test_an_activation_inside_a_norm_comes_back_too(end):
    model, expected = finalized(bottleneck(), batch())
    end(model)
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-5)
    released_(model)
    assert type(model[3].act) is nn.ReLU


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


# -- what stands beside a layer and cannot be taken along -------------------------------------------------------------


def test_a_norm_behind_a_layer_with_channels_last_is_over_another_axis():
    side = 16
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ChannelsLast(8, side), norm(side), nn.ReLU6(), nn.Conv2d(side, 4, 3))
    for other in (8, side):  # the same number of channels, and another one
        model[1] = ChannelsLast(other, side)
        model[0] = nn.Conv2d(3, other, 1)
        found, expected = finalized(copy.deepcopy(model), batch(side))
        assert isinstance(found[1].linear, GroupedBandsConv2d)
        assert isinstance(found[2], nn.BatchNorm2d)
        torch.testing.assert_close(found(batch(side)), expected, rtol=1e-4, atol=1e-5)
        assert clamps_beside(found, beside(found, batch(side), ["1.linear"])) == {"1.linear": (FREE, FREE)}


class ChannelsLast(nn.Module):
    """A linear layer on maps, whose output goes on as it lies."""

    def __init__(self, inside, out):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(inside, out)

    def forward(self, x):
        return self.linear(x.permute(0, 2, 3, 1))


class Shifted(nn.BatchNorm2d):
    """A norm with a forward of its own."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    "other",
    [Shifted(8), nn.BatchNorm2d(8, track_running_stats=False), nn.InstanceNorm2d(8)],
    ids=lambda m: type(m).__name__,
)
def test_norms_that_do_something_else_stay(other):
    assert clamp_of(other) is None
    model, expected = finalized(nn.Sequential(nn.Conv2d(3, 8, 1), other, nn.ReLU(), nn.Conv2d(8, 4, 3)), batch())
    assert model[1] is other
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """One layer that is called twice, and one that is called by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.shared, self.act = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU6()
        self.last, self.norm, self.other = nn.Conv2d(8, 8, 1), norm(8), nn.ReLU()

    def forward(self, x):
        y = self.last(self.act(self.shared(self.shared(self.stem(x)))))
        return self.norm(input=y) + self.other(y)


def test_what_is_called_by_name_is_read_too():
    assert beside(Twice(), batch(), ["last"]) == {"last": Beside("act", ())}


@pytest.mark.parametrize("restore", [False, True])
def test_a_layer_that_is_called_twice_is_measured_as_well(restore, monkeypatch):
    monkeypatch.setattr(band_forms, "fastest", clock("dense"))
    x, choices = batch(), []
    model = Twice().eval()
    st.compress_(model, st.PointwisePruning(keep=0.5, pays="always"), calibration=x)
    st.finalize_(model, example=x, restore=restore, choices=choices)
    assert {each.site: each.taken for each in choices}["shared"] == ("dense" if restore else "banded")
    assert isinstance(model.shared, nn.Conv2d) == restore


def test_modules_that_somebody_listens_to_stay():
    model = Net().eval()
    seen = []
    model.act.register_forward_hook(lambda _, __, output: seen.append(output))
    model.relu.register_forward_pre_hook(lambda _, __: seen.append(None))
    assert beside(model, batch(), ["point"]) == {"point": Beside(None, ("norm",))}
    assert len(seen) == 2


def test_an_activation_inside_a_norm_that_others_call_too_stays():
    bn = timm.layers.BatchNormAct2d(8, act_layer=nn.ReLU6)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), bn, nn.Conv2d(8, 8, 1), bn.act, nn.Conv2d(8, 4, 3))
    assert beside(model, batch(), ["2"]) == {"2": Beside()}
    assert beside(model[:3], batch(), ["2"]) == {"2": Beside("1")}


def test_a_wrong_one_is_taken_out_again_also_where_a_later_layer_is_dense_again(monkeypatch):
    def wrong(model, path, known):
        found = absorbing(model, path, known)
        if path == "blocks.0.0":
            found.after[path].weight.data.mul_(2)
        return found

    def fastest(forms, x, *, site, **_):
        return clock("dense" if site == "blocks.1.5" else "banded")(forms, x, site)

    monkeypatch.setattr(band_forms, "chain_where_faster_", lambda *_, **__: [])
    monkeypatch.setattr(band_forms, "fastest", fastest)
    model = Bottlenecks().eval()
    st.compress_(model, st.PointwisePruning(keep=0.5, pays="always"), calibration=batch())
    expected = st.finalize_(copy.deepcopy(model), example=batch(), restore=True)(batch())
    monkeypatch.setattr(band_forms, "absorbing", wrong)
    st.finalize_(model, example=batch(), restore=True)
    assert isinstance(model.blocks[1][5], nn.Conv2d)
    assert not isinstance(model.blocks[0][1], Absorbed)
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-4)


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_are_folded_in_single_precision_at_least(dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm(8), nn.ReLU6(), nn.Conv2d(8, 4, 3)).eval()
    model[1].eps = 1e-9
    model[1].running_var.fill_(0)
    st.compress_(model, st.PointwisePruning(keep=0.5, pays="always"), calibration=batch())
    st.finalize_(model).to(dtype)
    other = absorbing(model, "0", Beside(None, ("1",))).after["0"]
    assert other.weight.dtype == other.bias.dtype == dtype
    expected = model[0].weight.double() * model[1].weight.double() / 1e-9**0.5
    torch.testing.assert_close(other.weight.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_a_norm_with_a_scale_alone_has_no_shift():
    bn = nn.BatchNorm2d(8, bias=False)
    nn.init.uniform_(bn.weight), nn.init.uniform_(bn.running_mean)
    model, expected = finalized(nn.Sequential(nn.Conv2d(3, 8, 1), bn, nn.Conv2d(8, 4, 3)), batch())
    assert isinstance(model[1], Absorbed)
    torch.testing.assert_close(model(batch()), expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_has_absorbed_is_exported_copied_and_pickled(tmp_path):
    model, expected = finalized(Net(), batch())
    with torch.no_grad():
        model(batch())
        exported = torch.export.export(model, (batch(),)).module()
    torch.save(model, tmp_path / "model.pt")
    for other in (exported, copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        with torch.no_grad():
            torch.testing.assert_close(other(batch()), expected, rtol=1e-4, atol=1e-5)
    assert copy.deepcopy(model).point.written == (0.0, 6.0)


def test_half_precision_may_round_as_it_does():
    wanted = torch.ones(3)
    assert same([wanted.half()], [wanted.half() + 4e-3])
    assert not same([wanted.half()], [wanted.half() + 2e-2])
    assert not same([wanted], [wanted + 4e-3])


def test_what_is_released_is_what_it_was():
    assert type(Absorbed((0.0, math.inf)).released()) is nn.ReLU
    assert type(Absorbed((0.0, 6.0)).released()) is nn.ReLU6
    assert type(Absorbed((-1.0, 6.0)).released()) is nn.Hardtanh
    with pytest.raises(ValueError, match="the lower one first"):
        Absorbed((1.0, 1.0))
