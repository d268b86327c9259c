"""The compiled banded convolution computes what the plain one does."""

import copy
import shutil
from math import inf

import pytest
import torch

from spectrim.kernels import banded, build
from spectrim.nn import GroupedBandsConv2d, band_groups
from spectrim.nn.blockwise import Geometry

SHAPES = [
    # block, height, width, in, out, images
    (7, 14, 14, 40, 24, 2),
    (8, 13, 17, 17, 33, 1),
    (2, 4, 6, 3, 5, 1),
    (3, 7, 7, 5, 5, 2),
    (4, 8, 8, 33, 16, 1),
    (5, 10, 3, 16, 16, 1),
    (6, 12, 12, 20, 7, 1),
]


@pytest.fixture(scope="module")
def compiled():
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("needs a C++ compiler and ninja")
    assert build()


def layer(block, inside, out, *, order="zigzag", bias=True, levels=4):
    generator = torch.Generator().manual_seed(block)
    choices = torch.randint(1, block * block + 1, (levels,), generator=generator)
    kept = choices[torch.randint(0, levels, (inside,), generator=generator)]
    weight = torch.randn(out, inside, 1, 1, generator=generator)
    geometry = Geometry(inside, out, (block, block), order, bias=bias)
    return GroupedBandsConv2d.of(geometry, weight, torch.randn(out, generator=generator) if bias else None, kept)


def plain(module, x, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(banded, "built", lambda: False)
        return module(x)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("block", "height", "width", "inside", "out", "count"), SHAPES)
@pytest.mark.parametrize("order", ["zigzag", "square"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_compiled_form_computes_the_plain_one(block, height, width, inside, out, count, order, bias, monkeypatch):
    module = layer(block, inside, out, order=order, bias=bias)
    x = torch.randn(count, inside, height, width)
    with torch.no_grad():
        expected = plain(module, x, monkeypatch)
        for given in (
            x,
            x.contiguous(memory_format=torch.channels_last),
            x.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            torch.testing.assert_close(module(given), expected, atol=1e-5, rtol=1e-5)
        with torch.inference_mode():
            torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("block", "height", "width", "inside", "out", "count"), SHAPES[:3])
@pytest.mark.parametrize("limits", [(0.0, 0.5), (0.0, inf), (-inf, 0.25)])
def test_activations_are_taken_along(block, height, width, inside, out, count, limits, monkeypatch):
    module = layer(block, inside, out)
    x = torch.randn(count, inside, height, width)
    low, high = limits
    with torch.no_grad():
        before = plain(module, x.clamp(low, high), monkeypatch)
        expected = before.clamp(low, high)
        assert not torch.equal(before, expected)
        module.read = module.written = limits
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(module(given), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(plain(module, given, monkeypatch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_what_is_no_number_stays_none_when_it_is_clamped():
    module = layer(2, 3, 5)
    module.read = module.written = (0.0, 6.0)
    x = torch.zeros(1, 3, 4, 4)
    x[0, 1, 0, 0] = torch.nan
    with torch.no_grad():
        found = module(x)
    assert found[0, :, :2, :2].isnan().all()
    assert not found[0, :, 2:].isnan().any()


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_sorted_channels_need_no_sorting(monkeypatch):
    module = layer(7, 48, 32)
    x = torch.randn(1, 48, 14, 14)
    with torch.no_grad():
        sorted_first = x[:, module.source]
        expected = plain(module, x, monkeypatch)
        module.source.copy_(torch.arange(48))
        assert module._in_order()
        torch.testing.assert_close(module(sorted_first), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain(module, sorted_first, monkeypatch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("block", [2, 3, 7, 8])
@pytest.mark.parametrize("counts", ["each its own", "one", "all", "the last frequency first"])
def test_any_number_of_different_bands_is_exact(block, counts, monkeypatch):
    frequencies, channels = block * block, 75
    order = list(reversed(range(frequencies))) if counts == "the last frequency first" else "zigzag"
    kept = {"one": torch.ones(channels), "all": torch.full((channels,), frequencies)}.get(
        counts, torch.linspace(1, frequencies, channels)
    )
    for out in (1, 8, 9, 31, 48):
        geometry = Geometry(channels, out, (block, block), order)
        module = GroupedBandsConv2d.of(geometry, torch.randn(out, channels, 1, 1), torch.randn(out), kept.long())
        x = torch.randn(2, channels, 3 * block - 1, 2 * block)
        with torch.no_grad():
            torch.testing.assert_close(module(x), plain(module, x, monkeypatch), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_a_weight_that_changes_is_packed_again(monkeypatch):
    module, x = layer(7, 16, 24).requires_grad_(requires_grad=False), torch.randn(1, 16, 14, 14)
    packs = []
    monkeypatch.setattr(band_groups, "packed", lambda *given: packs.append(None) or banded.packed(*given))

    def check(*, times):
        torch.testing.assert_close(module(x), plain(module, x, monkeypatch), atol=1e-5, rtol=1e-4)
        assert len(packs) == times

    check(times=1)
    check(times=1)
    module.weight.mul_(2)
    check(times=2)
    module.weight = torch.nn.Parameter(torch.randn(16, 24), requires_grad=False)
    check(times=3)
    module.weight.data = torch.randn(16, 24)
    check(times=4)
    module.load_state_dict({**module.state_dict(), "weight": torch.randn(16, 24)})
    check(times=5)
    twin = copy.deepcopy(module)
    twin.weight.mul_(2)
    check(times=5)
    assert copy.deepcopy(module)._held is None, "copies may go to another machine, which packs otherwise"


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_a_bias_that_is_coded_is_decoded(monkeypatch):
    module, x = layer(7, 16, 24), torch.randn(1, 16, 14, 14)
    with torch.no_grad():
        module(x)
        torch.nn.utils.parametrize.register_parametrization(module, "bias", torch.nn.Softplus())
        torch.testing.assert_close(module(x), plain(module, x, monkeypatch), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_weights_made_in_inference_mode_may_change_unseen(monkeypatch):
    with torch.inference_mode():
        module, x = layer(7, 16, 24), torch.randn(1, 16, 14, 14)
        for _ in range(2):
            torch.testing.assert_close(module(x), plain(module, x, monkeypatch), atol=1e-5, rtol=1e-4)
            module.weight.mul_(3)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("inference", [False, True])
def test_no_call_makes_tensors_from_numbers_of_the_host(inference, monkeypatch):
    with torch.inference_mode(inference), torch.no_grad():
        module, x = layer(7, 16, 24), torch.randn(1, 16, 14, 14)
        expected = plain(module, x, monkeypatch)
        for name in ("tensor", "as_tensor", "full", "arange"):
            there = getattr(torch, name)
            monkeypatch.setattr(
                torch, name, lambda *a, name=name, there=there, **k: made.append(name) or there(*a, **k)
            )
        made = []
        module(x)  # once, what stays is looked up
        assert inference <= (not made), "a graph would read them when they are gone"
        made.clear()
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)
        assert not made


def test_what_follows_from_the_groups_survives_every_move():
    module = layer(3, 6, 5)
    constants = {name: getattr(module, name).clone() for name in ("order", "kept", "active", "basis")}
    assert constants["kept"].tolist() == [kept for size, kept in module.groups for _ in range(size)]
    assert constants["active"].tolist() == [int((constants["kept"] > f).sum()) for f in range(module.groups[0][1])]
    assert not constants.keys() & module.state_dict().keys()
    for moved in (copy.deepcopy(module).half(), copy.deepcopy(module).to("meta").to_empty(device="cpu")):
        for name, tensor in constants.items():
            assert torch.equal(getattr(moved, name), tensor)
            assert getattr(moved, name).dtype == tensor.dtype


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_threads_share_the_work(monkeypatch):
    before = torch.get_num_threads()
    try:
        for threads, side in ((2, 28), (2, 7), (5, 14), (3, 21)):  # more blocks than threads, and fewer
            torch.set_num_threads(threads)
            for unsorted in (False, True):
                module, x = layer(7, 60 if unsorted else 64, 40), torch.randn(1, 60 if unsorted else 64, side, side)
                with torch.no_grad():
                    if not unsorted:
                        module.source.copy_(torch.arange(64))
                    torch.testing.assert_close(module(x), plain(module, x, monkeypatch), atol=1e-5, rtol=1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_gradients_and_other_dtypes_take_the_plain_form():
    module, x = layer(7, 8, 8), torch.randn(1, 8, 14, 14)
    module(x).sum().backward()
    assert module.weight.grad.abs().sum() > 0
    assert module.double()(x.double()).dtype is torch.float64


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.tensor([0, 9], dtype=torch.int32)}, "wrong source"),
        ({"source": torch.tensor([0, -1], dtype=torch.int32)}, "wrong source"),
        ({"source": torch.tensor([0], dtype=torch.int32)}, "wrong source"),
        ({"source": torch.tensor([0, 1])}, "wrong source"),
        ({"order": torch.tensor([0, 1, 2, 4], dtype=torch.int32)}, "wrong order"),
        ({"order": torch.tensor([0, 1, 1, 2], dtype=torch.int32)}, "wrong order"),
        ({"kept": torch.tensor([5, 1], dtype=torch.int32)}, "wrong kept"),
        ({"kept": torch.tensor([1, 0], dtype=torch.int32)}, "wrong kept"),
        ({"kept": torch.tensor([1, 2], dtype=torch.int32)}, "wrong kept"),
        ({"kept": torch.tensor([3], dtype=torch.int32)}, "wrong kept"),
        ({"packed": torch.zeros(5)}, "wrong weight"),
        ({"out": 1000}, "wrong weight"),
        ({"out": 0}, "wrong input"),
        ({"block": 9}, "sides from 2 to 8"),
        ({"block": 3}, "wrong order"),
        ({"x": torch.zeros(1, 3, 4, 4)}, "wrong kept"),
        ({"x": torch.zeros(1, 2, 4, 4).double()}, "wrong input"),
        ({"bias": torch.zeros(2)}, "wrong bias"),
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_would_read_outside_is_refused(change, message):
    arguments = {
        "x": torch.zeros(1, 2, 4, 4),
        "order": torch.arange(4, dtype=torch.int32),
        "kept": torch.tensor([3, 1], dtype=torch.int32),
        "source": torch.tensor([1, 0], dtype=torch.int32),
        "packed": torch.ops.spectrim.banded_pack(torch.zeros(2, 3)),
        "bias": None,
        "block": 2,
        "out": 3,
        "least_read": 0.0,
        "most_read": 6.0,
        "least_written": 0.0,
        "most_written": 6.0,
    }
    assert torch.ops.spectrim.banded_pointwise(*arguments.values()).shape == (1, 3, 4, 4)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.spectrim.banded_pointwise(*(arguments | change).values())


def test_the_order_of_the_channels_is_looked_up_again_when_it_changes():
    module = layer(3, 6, 4)
    module.source.copy_(torch.arange(6))
    assert module._in_order()
    module.source.copy_(torch.arange(6).flip(0))
    assert not module._in_order()
