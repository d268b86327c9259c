"""A linear layer on maps with the channels last is a pointwise convolution, and is cut like one."""

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.measure import settling
from spectrim.methods.pointwise_forms import ones, plain_layer
from spectrim.nn import BandedPointwiseConv2d, FlatBandsConv2d, GroupedBandsConv2d, cut_offs
from spectrim.nn.blockwise import Geometry
from spectrim.surgery.edits import replace_module_
from spectrim.training.exporting import export_onnx
from tests.measure.test_settling import whole_clock

CUT = ["mix.1", "mix.3"]


class Last(nn.Module):
    """Channels to the back, or to the front again."""

    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class Mixer(nn.Module):
    """What stands behind a depthwise convolution in a ConvNeXt, once with linear layers and once with convolutions."""

    def __init__(self, *, linear=True, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        layers = [nn.Linear(12, 40), nn.GELU(), nn.Linear(40, 12)]
        self.head = nn.Linear(12, classes)
        if linear:
            self.mix = nn.Sequential(Last(0, 2, 3, 1), *layers, Last(0, 3, 1, 2))
        else:
            self.mix = nn.Sequential(
                nn.Identity(), convolution(layers[0]), layers[1], convolution(layers[2]), nn.Identity()
            )

    def forward(self, x):
        return self.head(self.mix(self.stem(x)).relu().mean((2, 3)))


def convolution(linear):
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    conv.load_state_dict({"weight": linear.weight[:, :, None, None], "bias": linear.bias})
    return conv


def images(size=12):
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))


METHOD = st.PointwisePruning(keep=0.4, pays="always")


@pytest.mark.parametrize("score", ["output", "energy"])
@pytest.mark.parametrize("size", [12, 13])
def test_it_gets_the_bands_that_the_convolution_gets_and_computes_what_that_does(size, score):
    method, x = st.PointwisePruning(keep=0.4, pays="always", score=score), images(size)
    linear, plain = Mixer().eval(), Mixer(linear=False).eval()
    plans = [st.plan(model, method, calibration=x) for model in (linear, plain)]
    assert [edit.path for edit in plans[0].edits] == CUT
    assert plans[0].skipped == ()
    assert [edit.spec["kept"] for edit in plans[0].edits] == [edit.spec["kept"] for edit in plans[1].edits]
    assert [edit.spec["macs"] for edit in plans[0].edits] == [edit.spec["macs"] for edit in plans[1].edits]
    for model, plan in zip((linear, plain), plans, strict=True):
        plan.apply_(model)
    expected = plain(x)
    assert not torch.allclose(expected, Mixer(linear=False).eval()(x), atol=1e-4), "something was cut"
    torch.testing.assert_close(linear(x), expected, atol=1e-6, rtol=1e-5)
    st.finalize_(linear, example=x)
    assert {type(linear.get_submodule(path)) for path in CUT} == {GroupedBandsConv2d}
    torch.testing.assert_close(linear(x), expected, atol=1e-6, rtol=1e-5)


def test_with_everything_kept_it_is_the_linear_layer_again():
    model = st.compress_(Mixer().eval(), st.PointwisePruning(keep=1.0, pays="always"), calibration=images())
    assert isinstance(model.mix[1], BandedPointwiseConv2d)
    assert repr(model.mix[1]) == "BandedPointwiseConv2d(12, 40, block=(6, 6), keep=1, last=True)"
    torch.testing.assert_close(model(images()), Mixer().eval()(images()), atol=1e-6, rtol=1e-5)
    st.finalize_(model)
    assert type(model.mix[1]) is nn.Linear
    torch.testing.assert_close(model(images()), Mixer().eval()(images()), atol=0, rtol=0)


@pytest.mark.parametrize("finalized", [False, True])
def test_it_goes_through_a_file(tmp_path, finalized):
    model = st.compress_(Mixer().eval(), METHOD, calibration=images())
    if finalized:
        st.finalize_(model)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(Mixer(), tmp_path / "model.safetensors").eval()
    torch.testing.assert_close(loaded(images()), model(images()), atol=0, rtol=0)


def test_its_weight_can_be_coded():
    model = st.compress_(Mixer().eval(), METHOD, calibration=images())
    st.compress_(model, st.FrequencyRegularization(keep=0.3, schedule="at-once"), where="mix.1")
    st.anneal_(model, 1.0)
    expected = model(images())
    torch.testing.assert_close(st.finalize_(model)(images()), expected, atol=1e-6, rtol=1e-5)


def test_its_bands_are_learned():
    model, x = Mixer(), images()
    st.compress_(model, st.PointwisePruning(keep=0.4, pays="always", learn=True, rounds=1), calibration=x)
    before = [theta.detach().clone() for theta in cut_offs(model)]
    optimizer = torch.optim.Adam(cut_offs(model), lr=0.05)
    for step in range(8):
        optimizer.zero_grad()
        (model(x).square().sum() + st.penalty(model)).backward()
        optimizer.step()
        st.anneal_(model, (step + 1) / 8)
    assert len(before) == 2
    assert any(not torch.equal(*pair) for pair in zip(before, cut_offs(model), strict=True))
    expected = model.eval()(x)
    torch.testing.assert_close(st.finalize_(model)(x), expected, atol=1e-6, rtol=1e-5)


def test_what_reads_no_map_is_no_candidate():
    with pytest.raises(st.SiteError, match=r"where='head' matches none of the 2 candidate tensors"):
        st.plan(Mixer().eval(), METHOD, where="head", calibration=images())
    plan = st.plan(Mixer().eval(), METHOD, where="mix.3", calibration=images())
    assert [edit.path for edit in plan.edits] == ["mix.3"]
    assert [(row.site, row.reason) for row in plan.skipped] == [("mix.1", "left dense by where")]


class Doubled(nn.Linear):
    """Reads its weight in another way."""

    def forward(self, x):
        return nn.functional.linear(x, 2 * self.weight, self.bias)


def test_a_forward_of_its_own_is_a_reason():
    model = Mixer().eval()
    model.mix[1] = Doubled(12, 40)
    plan = st.plan(model, METHOD, calibration=images())
    reason = "is a Doubled, which does not compute what a plain linear layer does"
    assert [(row.site, row.reason) for row in plan.skipped] == [("mix.1", reason)]
    assert st.plan(nn.Linear(3, 4), METHOD, calibration=torch.rand(2, 8, 8, 3)).skipped[0].reason == (
        "is the model itself; wrap it in nn.Sequential"
    )


def test_its_dense_form_is_measured_as_it_runs():
    geometry = Geometry(12, 40, (4, 4), last=True)
    layer, x = plain_layer(geometry, torch.channels_last), ones(geometry, (8, 4), torch.channels_last)
    assert type(layer) is nn.Linear
    assert layer(x).shape == (1, 8, 4, 40)
    with pytest.raises(ValueError, match=r"a layer that reads channels last has no stride, got \(2, 2\)"):
        Geometry(12, 40, (4, 4), stride=(2, 2), last=True)
    with pytest.raises(ValueError, match="with channels last both ends must be maps"):
        FlatBandsConv2d(geometry, [(12, 3)], writes=3)


@pytest.mark.parametrize("flat", [0.5, 2.0])
def test_it_is_measured_and_exported_for_onnxruntime(monkeypatch, tmp_path, flat):
    def times(modules, inputs):
        for module, x in zip(modules, inputs, strict=True):
            module(x)  # it fits
        return [flat if any(isinstance(each, FlatBandsConv2d) for each in module) else 1.0 for module in modules]

    monkeypatch.setattr(settling, "onnx_times", times)
    whole_clock(monkeypatch, 0.5)
    x = images()
    model = st.compress_(Mixer().eval(), METHOD, calibration=x)
    expected = model(x) if flat < 1 else Mixer().eval()(x)
    st.finalize_(model, example=x[:1], runtime="onnxruntime")
    assert {type(model.get_submodule(path)) for path in CUT} == {FlatBandsConv2d if flat < 1 else nn.Linear}
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-5)
    if flat < 1:
        pytest.importorskip("onnxruntime")
        assert export_onnx(model, x[:1], tmp_path / "mixer.onnx") < 1e-5


def test_it_is_fitted_anew_in_closed_form():
    x = torch.randn(160, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    model = Mixer().eval()
    plan = st.plan(model, METHOD, calibration=x[:32])
    cut = plan.apply_(Mixer().eval())
    with torch.no_grad():
        wanted, before = model(x[128:]), cut(x[128:])
        report = st.repair_(cut, model, plan=plan, calibration=x[:128])
        after = cut(x[128:])
    assert {row.path for row in report.refitted} & set(CUT)
    assert (after - wanted).square().mean() < (before - wanted).square().mean()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("form", ["cut", "finalized", "flat"])
def test_a_file_does_not_fit_the_network_that_has_the_other_kind_of_layer_there(tmp_path, linear, form):
    model = st.compress_(Mixer(linear=linear).eval(), METHOD, calibration=images())
    if form == "finalized":
        st.finalize_(model)
    elif form == "flat":
        for path in CUT:
            layer = model.get_submodule(path)
            weight = layer.geometry.as_convolution(layer.weight)
            flat = FlatBandsConv2d.of(layer.geometry, weight, layer.bias, layer.kept.long())
            replace_module_(model, layer, flat)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    other = Mixer(linear=not linear).eval()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    stands, found = ("Linear", "Conv2d") if linear else ("Conv2d", "Linear")
    said = rf"which stands for an nn\.{stands}, at 'mix\.1', found a {found} there\. Build the network with an nn\.{stands}"
    with pytest.raises(st.ArtifactError, match=said):
        st.load_(other, tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    again = st.load_(Mixer(linear=linear).eval(), tmp_path / "model.safetensors")
    torch.testing.assert_close(again(images()), model(images()), atol=1e-6, rtol=1e-5)
