"""The compiled two stages compute what the plain ones and the convolution with rebuilt filters do."""

import copy
import pickle
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrim.kernels import build
from spectrim.kernels import two_stage as module
from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.two_stage import TwoStageConv

CONVOLUTIONS = [
    # in, out, kernel, stride, padding, dilation; templates, groups; images, height, width
    ((4, 7, 3, 1, 1, 1), 3, 1, (1, 5, 6)),
    ((8, 16, 3, 1, 1, 1), 5, 2, (2, 8, 8)),
    ((12, 20, 3, 2, 1, 1), 7, 4, (2, 9, 7)),
    ((16, 16, 3, 2, 1, 1), 8, 1, (3, 8, 8)),
    ((6, 9, 5, 1, 2, 1), 2, 2, (2, 7, 7)),
    ((6, 9, 5, 1, 0, 1), 2, 2, (2, 7, 9)),
    ((6, 9, 3, 1, 2, 2), 4, 1, (2, 7, 9)),
    ((6, 9, (3, 2), (2, 1), (0, 1), (1, 2)), 4, 3, (2, 7, 9)),
    ((6, 9, 4, 2, 1, 1), 4, 1, (2, 7, 9)),
    ((8, 9, 7, 3, 3, 1), 4, 1, (2, 25, 15)),
    ((8, 9, 3, 1, 3, 1), 4, 1, (2, 5, 5)),
    ((8, 9, 1, 2, 0, 1), 4, 1, (2, 5, 5)),
    ((8, 9, 3, 1, 1, 1), 1, 1, (2, 1, 1)),
    ((300, 40, 3, 1, 1, 1), 13, 1, (3, 4, 4)),  # more channels than one product takes
    ((64, 24, 3, 1, 1, 1), 8, 2, (5, 2, 2)),
    ((16, 20, 3, 1, 1, 1), 7, 1, (2, 70, 90)),  # rows of one image at a time
    ((16, 20, 3, 2, 1, 1), 7, 2, (1, 150, 190)),
]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("needs a C++ compiler and ninja")
    assert build()


def form(convolution, templates, groups, *, bias=True):
    """A layer in two stages, and the filters that it stands for; rebuilt filters belong to any templates."""
    generator = torch.Generator().manual_seed(templates)
    sizes = ConvSizes.of(nn.Conv2d(*convolution[:2], *convolution[2:], bias=bias))
    layer = TemplateConv(sizes, groups=groups, templates=templates)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        layer.weight /= (sizes.inside * sizes.taps) ** 0.5
        order = torch.randperm(sizes.outside, generator=generator)
        layer.turned.copy_(torch.where(order < templates, -1, order - templates))
        layer.template.copy_(
            torch.where(order < templates, order, torch.randint(templates, order.shape, generator=generator))
        )
        return layer.alternatives()["two stages, fused"].eval(), layer.filters(), layer.bias, sizes


def unfused(layer):
    other = copy.deepcopy(layer)
    other.fused = False
    return other


@pytest.mark.slow
@pytest.mark.parametrize(("convolution", "templates", "groups", "maps"), CONVOLUTIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_all_forms_agree_in_both_memory_formats(convolution, templates, groups, maps, threads, monkeypatch):
    layer, filters, bias, sizes = form(convolution, templates, groups)
    x = torch.randn(maps[0], sizes.inside, *maps[1:])
    expected = F.conv2d(x.double(), filters.double(), bias.double(), sizes.stride, sizes.padding, sizes.dilation)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            torch.testing.assert_close(unfused(layer)(x), expected.float(), atol=1e-4, rtol=1e-4)
            monkeypatch.setattr(module, "_plain", lambda *_, **__: pytest.fail("the plain form was taken"))
            last = x.contiguous(memory_format=torch.channels_last)
            for given in (x, last, x.transpose(2, 3).contiguous().transpose(2, 3)):
                torch.testing.assert_close(layer(given), expected.float(), atol=1e-4, rtol=1e-4)
            with torch.inference_mode():
                assert layer(last).is_contiguous(memory_format=torch.channels_last)
                assert layer(x).is_contiguous()
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_without_a_bias_and_for_one_image_without_a_batch():
    layer, filters, _, _ = form((8, 12, 3, 1, 1, 1), 4, 2, bias=False)
    x = torch.randn(8, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.conv2d(x, filters, padding=1), atol=1e-5, rtol=1e-4)
        assert layer(torch.zeros(0, 8, 6, 6)).shape == (0, 12, 6, 6)


@pytest.mark.slow
def test_weights_that_change_are_laid_out_anew():
    layer, _, _, _ = form((8, 12, 3, 1, 1, 1), 4, 1)
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        before = layer(x)
        assert layer._laid(layer.latent, layer.mixing, layer.order, 1)[0] is layer._laid._laid[0]
        layer.latent *= 2
        torch.testing.assert_close(layer(x), unfused(layer)(x), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(layer(x), before)
        layer.mixing.data = torch.zeros_like(layer.mixing)
        torch.testing.assert_close(layer(x), layer.bias[None, :, None, None].expand(1, 12, 6, 6))
        for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301 - our own
            torch.testing.assert_close(same(x), layer(x))


@pytest.mark.slow
def test_gradients_and_other_dtypes_take_the_plain_form():
    layer, filters, bias, _ = form((8, 12, 3, 1, 1, 1), 4, 1)
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.latent.grad.abs().sum() > 0
    y = layer.double()(x.double())
    torch.testing.assert_close(
        y, F.conv2d(x.double(), filters.double(), bias.double(), padding=1), atol=1e-4, rtol=1e-4
    )


@pytest.mark.slow
def test_maps_of_taps_and_one_dimension_have_no_fused_form():
    for sizes, family in ((ConvSizes.of(nn.Conv2d(4, 6, 3)), "affine"), (ConvSizes.of(nn.Conv1d(4, 6, 3)), "scalar")):
        layer = TemplateConv(sizes, family=family, templates=2)
        assert list(layer.alternatives()) == ["two stages"]


@pytest.mark.slow
def test_what_is_finalized_exports_and_compiles_in_the_plain_form():
    layer, _, _, _ = form((8, 12, 3, 1, 1, 1), 4, 1)
    x = torch.randn(2, 8, 6, 6)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 3, 4, 4)}, "wrong groups"),
        ({"x": torch.zeros(4, 4, 4)}, "wrong input"),
        ({"x": torch.zeros(1, 4, 4, 4, dtype=torch.float64)}, "wrong input"),
        ({"x": torch.zeros(1, 4, 1, 0)}, "the kernel is larger than the padded input"),
        ({"panels": torch.zeros(71)}, "wrong weights"),
        ({"factors": torch.zeros(3, 17)}, "wrong factors"),
        ({"outputs": torch.tensor([0, 1, 3], dtype=torch.int32)}, "wrong outputs"),
        ({"outputs": torch.tensor([0, 1, -1], dtype=torch.int32)}, "wrong outputs"),
        ({"first": torch.tensor([0, 4, 3], dtype=torch.int32)}, "wrong outputs"),
        ({"first": torch.tensor([1, 2, 3], dtype=torch.int32)}, "wrong outputs"),
        ({"bias": torch.zeros(2)}, "wrong bias"),
        ({"groups": 0}, "wrong groups"),
        ({"kernel": [3]}, "wrong sizes"),
        ({"stride": [0, 1]}, "wrong sizes"),
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_would_read_outside_is_refused(change, message):
    arguments = {
        "x": torch.zeros(1, 4, 4, 4),
        "panels": torch.zeros(72),
        "factors": torch.zeros(3, 18),
        "outputs": torch.arange(3, dtype=torch.int32),
        "first": torch.tensor([0, 1, 3], dtype=torch.int32),
        "bias": None,
        "groups": 2,
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
    }
    assert torch.ops.spectrim.two_stage(*arguments.values()).shape == (1, 3, 4, 4)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.spectrim.two_stage(*(arguments | change).values())


def test_a_file_brings_back_the_fused_form():
    layer, _, _, _ = form((8, 12, 3, 1, 1, 1), 4, 1)
    again = TwoStageConv.from_spec(layer.spec())
    again.load_state_dict(layer.state_dict())
    assert again.fused
    with torch.no_grad():
        torch.testing.assert_close(again(torch.ones(1, 8, 5, 5)), layer(torch.ones(1, 8, 5, 5)))
