"""Depthwise convolutions are fused with the pointwise ones beside them, where nothing else has to do with what is in between."""

import copy
import shutil

import pytest
import timm
import torch
import torchvision
from torch import nn

import spectrim as st
from spectrim.errors import ArtifactError
from spectrim.kernels import build
from spectrim.measure import fused_forms
from spectrim.measure.choice import Choice
from spectrim.measure.without_transforms import macs_without_transforms
from spectrim.methods.pointwise_time import finalized_copy
from spectrim.nn import Absorbed, FoldedConv2d, FusedDepthwise, GroupedBandsConv2d
from spectrim.nn.folded import Padded
from spectrim.surgery.fusing import blocks, unfused_
from tests.surgery.bottleneck import Net, RightAndBelow, image
from tests.surgery.test_chaining import Bottlenecks


@pytest.fixture
def compiled():
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("needs a C++ compiler and ninja")
    assert build()


@pytest.fixture
def fused_wins(monkeypatch):
    """The fused form is always the faster one."""

    def fastest(forms, x, *, site="", **_):
        return Choice(site, tuple(x.shape), {"apart": 1.0, "fused": 0.5}, "fused")

    monkeypatch.setattr(fused_forms, "fastest", fastest)


def pruned(model, x, **settings):
    st.compress_(model.eval(), st.PointwisePruning(keep=0.5, pays="always", **settings), calibration=x)
    return model


def test_a_bottleneck_is_one_block():
    (block,) = blocks(Net().eval(), image())
    assert block.parts == {"expand": "expand", "depthwise": "depthwise", "project": "project"}
    assert block.norms == {"expand": "norm", "depthwise": "other_norm"}
    assert block.order == ("expand", "norm", "act", "depthwise", "other_norm", "other_act", "project")
    assert block.activations == {"act": (0.0, 6.0), "other_act": (0.0, torch.inf)}
    assert block.clamps == ((0.0, 6.0), (0.0, torch.inf))
    assert block.padded == Padded((1, 1, 1, 1))


@pytest.mark.parametrize("flag", ["residual", "functional", "twice"])
def test_nothing_is_fused_where_something_else_reads_what_is_between(flag):
    assert blocks(Net(**{flag: True}).eval(), image()) == []


def test_without_a_pointwise_convolution_before_the_maps_come_in_as_they_are():
    (block,) = blocks(Net(expand=False).eval(), image())
    assert block.order == ("depthwise", "other_norm", "other_act", "project")


@pytest.mark.parametrize("heard", ["expand", "norm", "depthwise", "other_act", "project"])
def test_what_somebody_listens_to_stays(heard):
    model = Net().eval()
    model.get_submodule(heard).register_forward_hook(lambda *_: None)
    assert all(heard not in block.order for block in blocks(model, image()))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(12, 12, 3, padding=1, groups=6),
        nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12),
        nn.Conv2d(12, 12, 3, padding=1, groups=12, padding_mode="reflect"),
        nn.Conv2d(12, 12, (3, 5), padding=(1, 2), groups=12),
        nn.Conv2d(12, 12, 7, padding=3, groups=12),
    ],
    ids=str,
)
def test_other_convolutions_stay(layer):
    assert blocks(Net(layer).eval(), image()) == []


class Called(Net):
    """Calls its depthwise convolution in another way, or asks it for its weight."""

    def __init__(self, way, depthwise=None):
        super().__init__(depthwise)
        self.way = way

    def forward(self, x):
        x = self.act(self.norm(self.expand(self.stem(x))))
        if self.way == "by name":
            x = self.depthwise(input=x)
        elif self.way == "more arguments":
            x = self.depthwise(x, 2.0)
        else:
            x = self.depthwise(x.to(self.depthwise.weight.dtype))
        return self.last_norm(self.project(self.other_act(self.other_norm(x))))


class Scaled(nn.Conv2d):
    """Reads a number too."""

    def forward(self, x, scale):
        return scale * super().forward(x)


@pytest.mark.parametrize("way", ["by name", "more arguments"])
def test_convolutions_that_are_called_by_other_rules_stay(way):
    layer = Scaled(12, 12, 3, padding=1, groups=12) if way == "more arguments" else None
    assert blocks(Called(way, layer).eval(), image()) == []


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_what_cannot_stay_fused_is_said_to_be_apart():
    model, x, found = pruned(Called("weight"), image()), image(), []
    expected = model(x)
    st.finalize_(model, example=x, choices=found)
    torch.testing.assert_close(model(x), expected)
    assert [choice.taken for choice in found if choice.site == "depthwise"] == ["apart"]
    assert not any(isinstance(each, FusedDepthwise) for each in model.modules())


@pytest.mark.usefixtures("compiled")
def test_a_plan_by_the_clock_does_not_mind_what_cannot_be_fused():
    model, x = Called("weight").eval(), image()
    other = finalized_copy(model, (), x)
    torch.testing.assert_close(other(x), model(x))
    assert not any(isinstance(each, FusedDepthwise) for each in other.modules())


@pytest.mark.usefixtures("compiled", "fused_wins")
@pytest.mark.parametrize("heard", ["0", "1", ""])
def test_listeners_to_modules_around_hear_what_they_did(heard):
    torch.manual_seed(0)
    model, x, seen = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 12, 1), Bottlenecks.norm(12), nn.ReLU()),
        nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), Bottlenecks.norm(12), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(12, 4, 1), Bottlenecks.norm(4)),
    ), image(), []  # fmt: skip
    pruned(model, x)
    model.get_submodule(heard).register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    with torch.no_grad():
        model(x)
        expected = seen[-1]
        st.finalize_(model, example=x)
        model(x)
    for found, was in zip(seen[-1], expected, strict=True):  # channels may come in another order
        torch.testing.assert_close(*(each.sum((2, 3)).sort().values for each in (found, was)))
    assert any(isinstance(each, FusedDepthwise) for each in model.modules()) == (heard == "")


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_finalizing_fuses_and_says_so():
    model, x = pruned(Bottlenecks(), image(16, 2)), image(16, 2)
    expected, found = model(x), []
    st.finalize_(model, example=x, choices=found)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(image(17)), copy.deepcopy(model).double()(image(17).double()).float())
    assert [choice.site for choice in found if choice.taken == "fused"] == ["blocks.0.3", "blocks.1.3"]
    layer = model.blocks[0][5]
    assert isinstance(layer, FusedDepthwise)
    assert isinstance(layer.expand, GroupedBandsConv2d)
    assert all(isinstance(model.blocks[0][each], Absorbed) for each in (0, 1, 2, 3, 4, 6))
    with torch.no_grad():
        assert layer.compiled() is not None


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_what_a_fused_network_multiplies_is_counted_as_before():
    model, x = pruned(Bottlenecks(), image(16)), image(16)
    apart = st.finalize_(copy.deepcopy(model))
    before = st.measure.macs(apart, x), macs_without_transforms(apart, x)
    st.finalize_(model, example=x)
    assert any(isinstance(each, FusedDepthwise) for each in model.modules())
    assert (st.measure.macs(model, x), macs_without_transforms(model, x)) == before


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_a_fused_network_is_finalized_again_and_elsewhere():
    model, x = pruned(Bottlenecks(), image(16)), image(16)
    st.finalize_(model, example=x)
    expected = model(x)
    again = copy.deepcopy(model)
    unfused_(again)
    assert not any(isinstance(each, FusedDepthwise) for each in again.modules())
    torch.testing.assert_close(again(x), expected)
    st.finalize_(model, example=x)
    torch.testing.assert_close(model(x), expected)
    wrapped = nn.Sequential(nn.Identity(), model)  # places are relative
    unfused_(wrapped)
    torch.testing.assert_close(wrapped(x), expected)


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_onnxruntime_gets_the_parts():
    pytest.importorskip("onnxruntime")
    model, x = pruned(Bottlenecks(), image(16)), image(16)
    st.finalize_(model, example=x)
    st.finalize_(model, example=x, runtime="onnxruntime")
    assert not any(isinstance(each, FusedDepthwise) for each in model.modules())


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_restoring_takes_fused_layers_apart(monkeypatch):
    from spectrim.measure import band_forms

    model, x = Bottlenecks().eval(), image(16)
    expected = model(x)
    pruned(model, x)

    def fastest(forms, x, *, site="", **_):
        taken = "dense" if site == "(the model)" else "banded"
        return Choice(site, tuple(x.shape), dict.fromkeys(forms, 1.0), taken)

    monkeypatch.setattr(band_forms, "fastest", fastest)
    found = []
    st.finalize_(model, example=x, restore=True, choices=found)
    torch.testing.assert_close(model(x), expected)
    assert {choice.taken for choice in found} == {"dense"}


@pytest.mark.usefixtures("compiled", "fused_wins")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_hold_fused_layers(tmp_path, dtype):
    model, x = pruned(Net(RightAndBelow(12, 12, 3, 2, groups=12, bias=False)), image()), image()
    st.finalize_(model, example=x)
    assert isinstance(model.project, FusedDepthwise)
    expected = model(x)
    st.save(model, tmp_path / "net.safetensors", dtype=dtype)
    fresh = st.load_(Net(RightAndBelow(12, 12, 3, 2, groups=12, bias=False)), tmp_path / "net.safetensors").eval()
    assert isinstance(fresh.project, FusedDepthwise)
    close = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.float16 else {}
    torch.testing.assert_close(fresh(x), expected, **close)
    unfused_(fresh)
    assert isinstance(fresh.depthwise, FoldedConv2d)
    torch.testing.assert_close(fresh(x), expected, **close)
    st.save(fresh, tmp_path / "apart.safetensors", dtype=dtype)
    apart = st.load_(Net(RightAndBelow(12, 12, 3, 2, groups=12, bias=False)), tmp_path / "apart.safetensors").eval()
    torch.testing.assert_close(apart(x), expected, **close)


class Head(nn.Sequential):
    """Many channels in between, one in the end."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 256, 1), nn.Conv2d(256, 512, 1), nn.ReLU(), nn.Conv2d(512, 512, 3, padding=1, groups=512),
            nn.ReLU(), nn.Conv2d(512, 1, 1),
        )  # fmt: skip


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_a_file_may_hold_far_more_than_the_last_part(tmp_path):
    model, x = pruned(Head(), image(16)), image(16)
    st.finalize_(model, example=x)
    assert isinstance(model[5], FusedDepthwise)
    st.save(model, tmp_path / "head.safetensors", dtype=torch.float32)
    torch.testing.assert_close(st.load_(Head(), tmp_path / "head.safetensors").eval()(x), model(x))


@pytest.mark.usefixtures("compiled", "fused_wins")
@pytest.mark.parametrize(
    "change",
    [
        {"parts": {"expand": "nowhere", "depthwise": "depthwise", "project": "project"}},
        {"parts": {"expand": "", "depthwise": "depthwise", "project": "project"}},
        {"parts": {"expand": "stem", "depthwise": "depthwise", "project": "project"}},
        {"parts": {"expand": "expand", "depthwise": "depthwise", "project": "last_norm"}},
        {"activations": {"nowhere": [0, 6]}},
        {"up": 2, "parts": {"expand": "expand", "depthwise": "depthwise", "project": "x.project"}},
    ],
    ids=str,
)
def test_a_file_that_names_other_places_is_refused(tmp_path, monkeypatch, change):
    model, x = pruned(Net(), image()), image()
    st.finalize_(model, example=x)
    told = model.project.spec()
    monkeypatch.setattr(FusedDepthwise, "spec", lambda _: told | {"places": told["places"] | change})
    st.save(model, tmp_path / "net.safetensors")
    with pytest.raises(ArtifactError, match=r"'project' of the kind 'fused-depthwise' is refused: it takes the places"):
        st.load_(Net(), tmp_path / "net.safetensors")


def spec():
    model, x = Net().eval(), image()
    (block,) = blocks(model, x)
    return block.fused(model).spec()


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": [6, 12]},
        {"sizes": [6, 12, 0]},
        {"sizes": "6"},
        {"biases": [1, True]},
        {"biases": [True]},
        {"kernel": 2.5},
        {"kernel": 10**9},
        {"clamps": [[0, 6]]},
        {"clamps": [[0, 6], [1, "a"]]},
        {"clamps": [[0, 6], [6, 0]]},
        {"places": {"up": 0, "parts": {"depthwise": "0"}, "activations": {}}},
        {"places": {"up": 1, "parts": {"depthwise": 0}, "activations": {}}},
        {"places": {"up": 1, "parts": {"elsewhere": "0"}, "activations": {}}},
        {"places": 3},
        {"more": 1},
    ],
    ids=str,
)
def test_files_are_not_trusted(change):
    FusedDepthwise.from_spec(spec())
    with pytest.raises(ValueError, match=r"."):
        FusedDepthwise.from_spec(spec() | change)


@pytest.mark.usefixtures("compiled", "fused_wins")
def test_a_file_for_another_layer_is_refused(tmp_path):
    model, x = pruned(Net(), image()), image()
    st.save(st.finalize_(model, example=x), tmp_path / "net.safetensors")
    other = Net()
    other.project = nn.Linear(12, 5)
    with pytest.raises(ArtifactError, match=r"project"):
        st.load_(other, tmp_path / "net.safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("compiled", "fused_wins")
@pytest.mark.parametrize(
    ("build_model", "size", "count"),
    [
        (torchvision.models.mobilenet_v2, 64, 17),
        (lambda: timm.create_model("mobilenetv1_100"), 64, 13),
        (lambda: timm.create_model("tf_efficientnet_lite0"), 64, 16),
        (lambda: timm.create_model("resnet18"), 64, 0),
    ],
    ids=["MobileNetV2", "MobileNetV1", "EfficientNet-Lite0", "ResNet-18"],
)
def test_real_networks(build_model, size, count):
    torch.manual_seed(0)
    model, x = build_model().eval().requires_grad_(requires_grad=False), torch.randn(1, 3, size, size)
    found = blocks(model, x)
    assert len(found) == count
    if not count:
        return
    pruned(model, x, score="energy")
    expected = model(x)
    st.finalize_(model, example=x)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert sum(isinstance(each, FusedDepthwise) for each in model.modules()) == len(found)


@pytest.mark.parametrize(
    "change",
    [
        {"in": 0},
        {"groups": 5},
        {"kernel": 99},
        {"stride": 10**6},
        {"padding": [1, 1, 1]},
        {"padding": [1, 1, 1, -1]},
        {"padding": [1, 1, 1, 10**9]},
        {"more": 1},
    ],
    ids=str,
)
def test_files_of_folded_convolutions_are_not_trusted_either(change):
    spec = FoldedConv2d(4, 8, 3, 1, 2, Padded((1, 1, 1, 1))).spec()
    assert FoldedConv2d.from_spec(spec).spec() == spec
    with pytest.raises(ValueError, match=r"."):
        FoldedConv2d.from_spec(spec | change)
