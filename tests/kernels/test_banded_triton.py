"""The banded convolution in Triton computes what the plain one does: on a device where there is one, in Triton's interpreter elsewhere."""

import copy
import importlib.util
import sys

import pytest
import torch

from spectrim import kernels
from spectrim.kernels import banded, building
from spectrim.nn import GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry

SHAPES = [
    # block, height, width, in, out, images
    ((7, 7), 14, 14, 40, 24, 2),
    ((8, 8), 13, 17, 17, 33, 1),
    ((2, 2), 4, 6, 3, 5, 1),
    ((3, 5), 7, 7, 5, 5, 2),
]


@pytest.fixture(scope="module")
def triton():
    """The kernels, as they run here."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs the package triton, which torch brings along where it was built for CUDA")
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, building._TRITON, raising=False)
        yield importlib.import_module(building._TRITON)
        patch.delitem(sys.modules, building._TRITON, raising=False)


def layer(block, inside, out, *, order="zigzag", bias=True):
    frequencies = block[0] * block[1]
    kept = torch.randint(1, frequencies + 1, (inside,))
    geometry = Geometry(inside, out, block, order, bias=bias)
    weight, shift = torch.randn(out, inside, 1, 1), torch.randn(out) if bias else None
    return GroupedBandsConv2d.of(geometry, weight, shift, kept).requires_grad_(requires_grad=False)


def counts(module):
    return torch.tensor([kept for size, kept in module.groups for _ in range(size)], dtype=torch.int32)


@pytest.mark.parametrize(("block", "height", "width", "inside", "out", "count"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3)])
def test_it_computes_the_plain_form(triton, block, height, width, inside, out, count, dtype, tolerance):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for order, bias in (("zigzag", True), ("square", False)):
        module = layer(block, inside, out, order=order, bias=bias)
        x = torch.randn(count, inside, height, width)
        expected = module(x)
        moved = copy.deepcopy(module).to(device, dtype)
        tensors = moved.source, counts(moved).to(device), moved.basis, moved.weight, moved.bias
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            found = triton.banded_pointwise_triton(given.to(device, dtype), *tensors, block=block)
            assert found.dtype == dtype
            scale = float(expected.abs().max())
            torch.testing.assert_close(found.cpu().float(), expected, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize("changes", [{"high": 64, "outer": 64, "inner": 64}, {"blocks": 2, "parts": 64, "high": 16}])
def test_however_the_work_is_cut_up_it_computes_the_same(triton, changes):
    module, x = layer((2, 2), 40, 70), torch.randn(3, 40, 8, 10)
    expected = module(x)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = copy.deepcopy(module).to(device)
    tensors = moved.source, counts(moved).to(device), moved.basis, moved.weight, moved.bias
    active = triton.counted(tensors[1], len(moved.basis))
    found = triton.banded_pointwise_triton(
        x.to(device), *tensors, block=(2, 2), active=active, tiles=triton.Tiling(**changes)
    )
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_large_products_are_cut_into_large_tiles(triton):
    least, most = triton.tiling(4, 16, torch.float32), triton.tiling(100_000, 960, torch.float16)
    assert (least.high, least.outer, least.precision) == (16, 32, "tf32x3")
    assert (most.high, most.outer, most.precision) == (128, 64, "tf32")


def test_a_map_without_pixels_is_none_either(triton):
    module = layer((2, 2), 3, 5)
    x = torch.zeros(0, 3, 4, 4)
    found = triton.banded_pointwise_triton(
        x, module.source, counts(module), module.basis, module.weight, None, block=(2, 2)
    )
    assert found.shape == (0, 5, 4, 4)


@pytest.mark.gpu
def test_on_a_device_it_runs_once_it_was_asked_for(triton, monkeypatch):
    monkeypatch.setitem(sys.modules, building._TRITON, triton)
    assert kernels.load_triton()
    calls, kernel = [], triton.banded_pointwise_triton
    monkeypatch.setattr(triton, "banded_pointwise_triton", lambda *a, **k: calls.append(0) or kernel(*a, **k))
    module = layer((7, 7), 40, 24)
    x = torch.randn(2, 40, 14, 14)
    expected = module(x)
    torch.testing.assert_close(module.cuda()(x.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)
    assert calls
    with torch.enable_grad():
        module(x.cuda().requires_grad_()).sum().backward()
    assert len(calls) == 1


def test_nothing_uses_it_that_did_not_ask(monkeypatch):
    monkeypatch.delitem(sys.modules, building._TRITON, raising=False)
    monkeypatch.setattr(banded, "built", lambda: False)
    assert not building.triton_loaded()
    assert not banded.compiled_for(torch.zeros(2, 2))
    assert not banded.compiled_for(torch.zeros(2, 2, device="meta"))


def test_where_it_is_missing_that_is_said(monkeypatch):
    monkeypatch.delitem(sys.modules, building._TRITON, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.warns(UserWarning, match="found no module 'triton'; plain torch goes on. Run: pip install triton"):
        assert not kernels.load_triton()
