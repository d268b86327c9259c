"""A depthwise convolution and the pointwise ones beside it compute in one pass what they compute one by one."""

import copy
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn.utils import parametrize

from spectrim.kernels import banded, build
from spectrim.kernels.fused import Side, fused_call
from spectrim.measure.clock import threads_set
from spectrim.nn import FusedDepthwise, GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry
from spectrim.nn.folded import FoldedConv2d, Padded
from spectrim.nn.fused import Places


class DefaultDtype:
    """Double precision as torch's default."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        torch.set_default_dtype(torch.float32)


PLACES = Places(1, {"expand": "0", "depthwise": "1", "project": "2"}, {})
FORMS = ["banded", "dense"]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("needs a C++ compiler and ninja")
    assert build()


def pointwise(form, inside, out, block, *, sorted_=True, bias=True):
    """With another band for each channel, or a plain convolution."""
    if form == "dense":
        return nn.Conv2d(inside, out, 1, bias=bias)
    kept = torch.randint(1, block * block + 1, (inside,))
    kept = kept.sort(descending=True).values if sorted_ else kept
    geometry = Geometry(inside, out, (block, block), bias=bias)
    return GroupedBandsConv2d.of(geometry, torch.randn(out, inside, 1, 1), torch.randn(out) if bias else None, kept)


def norm(channels):
    made = nn.BatchNorm2d(channels)
    for tensor in (made.running_mean, made.running_var, made.weight, made.bias):
        nn.init.uniform_(tensor, 0.5)
    return made


def block(
    expand, project, *, sizes=(5, 19, 6), kernel=3, stride=1, zeros=(1, 1, 1, 1), blocks=(4, 4), normed=False, **more
):
    inside, channels, out = sizes
    plain = nn.Conv2d(channels, channels, kernel, stride, groups=channels, bias=not normed)
    layer = FusedDepthwise(
        FoldedConv2d.of(plain, norm(channels) if normed else None, Padded(zeros)),
        pointwise(project, channels, out, blocks[1], sorted_=more.pop("sorted_", True)),
        places=PLACES,
        expand=None if expand is None else pointwise(expand, inside, channels, blocks[0], sorted_=False),
        **more,
    )
    return layer.eval().requires_grad_(requires_grad=False)


def check(layer, x):
    """That it has a compiled form, and that this computes what the parts do one by one."""
    with torch.no_grad():
        assert layer.compiled() is not None
        listening = copy.deepcopy(layer)
        listening.depthwise.register_forward_hook(lambda *_: None)
        expected = listening(x)
        scale = expected.abs().max()
        for given_ in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(layer(given_) / scale, expected / scale, atol=2e-5, rtol=0)
        with threads_set(2):
            torch.testing.assert_close(layer(x) / scale, expected / scale, atol=2e-5, rtol=0)


@pytest.mark.parametrize("expand", [*FORMS, None])
@pytest.mark.parametrize("project", FORMS)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_compiled_form_computes_what_the_parts_do(expand, project, kernel, stride):
    torch.manual_seed(0)
    half = kernel // 2
    sizes = (19 if expand is None else 5, 19, 6)
    layer = block(expand, project, sizes=sizes, kernel=kernel, stride=stride, zeros=(half, half, half, half))
    check(layer, torch.randn(2, sizes[0], 12, 12))


@settings(deadline=None, max_examples=60)
@given(
    some.sampled_from([*FORMS, None]), some.sampled_from(FORMS), some.tuples(*[some.integers(1, 40)] * 3),
    some.tuples(*[some.integers(4, 21)] * 2), some.tuples(*[some.integers(2, 8)] * 2), some.sampled_from([3, 5]),
    some.sampled_from([1, 2]), some.tuples(*[some.integers(0, 2)] * 4), some.integers(1, 3), some.booleans(),
)  # fmt: skip
def test_any_sizes(expand, project, sizes, size, blocks, kernel, stride, zeros, images, sorted_):
    torch.manual_seed(0)
    if expand is None:
        sizes, sorted_ = (sizes[1], *sizes[1:]), True
    size = tuple(max(side, kernel) for side in size)
    layer = block(
        expand, project, sizes=sizes, kernel=kernel, stride=stride, zeros=zeros, blocks=blocks, sorted_=sorted_
    )
    check(layer, torch.randn(images, sizes[0], *size))


def test_zeros_as_tensorflow_pads_them():
    torch.manual_seed(0)
    for size in ((7, 8), (8, 7)):
        check(block("banded", "banded", stride=2, zeros=None), torch.randn(1, 5, *size))


@pytest.mark.parametrize("expand", FORMS)
def test_norms_and_activations_are_in_it(expand):
    torch.manual_seed(0)
    layer = block(expand, "banded", normed=True, clamps=((0.0, 6.0), (0.0, 0.5)))
    if expand == "banded":
        layer.expand.read, layer.expand.written, layer.clamps = (
            (0.0, math.inf),
            (-1.0, 2.0),
            ((-math.inf, math.inf), (0.0, 0.5)),
        )
    layer.project.read, layer.project.written = (0.1, math.inf), (-0.5, 0.5)
    check(layer, torch.randn(2, 5, 12, 12))


def test_large_batches_are_done_in_parts():
    torch.manual_seed(0)
    check(block("banded", "dense", sizes=(8, 48, 16), blocks=(8, 8)), torch.randn(3, 8, 64, 64))


def test_the_weights_are_packed_again_when_they_change():
    torch.manual_seed(0)
    layer, x = block("dense", "banded"), torch.randn(1, 5, 8, 8)
    check(layer, x)
    for tensor in (layer.expand.weight, layer.depthwise.bias, layer.project.weight):
        tensor.add_(1.0)
        check(layer, x)
    layer.project.written = (0.0, 1.0)
    check(layer, x)
    layer.expand = nn.Conv2d(5, 19, 1).requires_grad_(requires_grad=False)
    check(layer, x)
    layer.expand.weight = nn.Parameter(torch.zeros(19, 5, 1, 1), requires_grad=False)
    check(layer, x)


def test_a_bias_that_comes_later_is_seen():
    torch.manual_seed(0)
    layer, x = block("banded", "dense"), torch.randn(1, 5, 8, 8)
    layer.project.bias = None
    check(layer, x)
    layer.project.bias = nn.Parameter(torch.ones(6), requires_grad=False)
    check(layer, x)


class Times(nn.Module):
    """A weight that is made of another one."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, weight):
        return self.factor * weight


@pytest.mark.parametrize("part", ["expand", "depthwise", "project"])
def test_coded_weights_are_decoded_in_every_call(part):
    torch.manual_seed(0)
    layer, x, times = block("banded", "banded"), torch.randn(1, 5, 8, 8), Times()
    layer.get_submodule(part).bias.zero_()
    with torch.no_grad():
        before = layer(x)
        parametrize.register_parametrization(layer.get_submodule(part), "weight", times)
        torch.testing.assert_close(layer(x), before)
        assert layer.compiled() is None
        times.factor.fill_(2.0)
        layer.get_submodule("depthwise").bias.mul_(1.0)
        assert not torch.allclose(layer(x), before, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"expand": nn.Conv2d(5, 19, 3, padding=1)},
        {"expand": nn.Sequential(nn.Conv2d(5, 19, 1), nn.Sigmoid())},
        {"expand": nn.Conv2d(5, 19, 1).double()},
        {"depthwise": FoldedConv2d(19, 19, 3, 1, 1, Padded((1, 1, 1, 1)))},
        {"depthwise": nn.Conv2d(19, 19, 3, padding=1, groups=19)},
        {"project": nn.Conv2d(19, 6, 1, 2)},
    ],
    ids=["kernel", "several", "precision", "groups", "class", "stride"],
)
def test_other_parts_are_not_compiled(change):
    layer = block("dense", "banded")
    for name, part in change.items():
        setattr(layer, name, part.eval())
    with torch.no_grad():
        assert layer.compiled() is None


@pytest.mark.parametrize("scope", [torch.device("meta"), DefaultDtype()], ids=["device", "precision"])
def test_defaults_of_torch_do_not_matter(scope):
    torch.manual_seed(0)
    layer, x = block("banded", "banded"), torch.randn(1, 5, 8, 8)
    with scope, torch.no_grad():
        call = layer.compiled()
    assert call is not None
    check(layer, x)


def test_what_is_not_compiled_runs_part_by_part():
    torch.manual_seed(0)
    layer, x = block("banded", "banded"), torch.randn(1, 5, 8, 8)
    expected = layer(x)
    layer.requires_grad_()
    layer(x).sum().backward()  # with gradients
    assert all(parameter.grad is not None for parameter in layer.parameters())
    layer.requires_grad_(requires_grad=False)
    torch.testing.assert_close(layer.train()(x), expected)
    torch.testing.assert_close(layer.eval().double()(x.double()).float(), expected)
    exported = torch.export.export(layer.float(), (x,))
    assert not any("spectrim" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), expected)


@pytest.mark.parametrize("change", [{"kernel": 7, "zeros": (3, 3, 3, 3)}, {"stride": 3}], ids=str)
def test_other_kernels_and_strides_are_not_compiled(change):
    layer = block("banded", "banded", **change)
    with torch.no_grad():
        assert layer.compiled() is None
        assert layer(torch.randn(1, 5, 9, 9)).shape[1] == 6


def test_nothing_is_compiled_where_nothing_was_built(monkeypatch):
    monkeypatch.setattr(banded, "built", lambda: False)
    weight = torch.ones(3, 1, 3, 3)
    assert fused_call(None, weight, torch.zeros(3), Side(torch.ones(3, 2), None), stride=1, clamp=(0.0, 6.0)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(1, 5, 2, 8)}, "smaller than the kernel"),
        ({"x": torch.zeros(1, 4, 8, 8)}, "wrong weight"),
        ({"x": torch.zeros(5, 8, 8)}, "wrong input"),
        ({"padding": (1, 1, 1, 3)}, "wrong padding"),
        ({"x": torch.zeros(1, 5, 0, 8), "padding": (2, 0, 2, 0)}, "no pixels"),
    ],
    ids=["small", "channels", "axes", "padding", "empty"],
)
def test_the_operator_refuses_what_does_not_fit(change, said):
    layer = block("dense", "banded")
    with torch.no_grad():
        call = layer.compiled()
    with pytest.raises(RuntimeError, match=said):
        call(change.get("x", torch.zeros(1, 5, 8, 8)), change.get("padding", (0, 0, 0, 0)))
