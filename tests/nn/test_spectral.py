"""The spectral codec by itself: what it decodes, what trains, what it forgets."""

import copy
import math

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spectrim.nn import SpectralCodec, draw_spectra_
from spectrim.transforms.dct import dctn
from spectrim.transforms.ordering import cut_key, keys
from spectrim.truncation import Truncation

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=5).map(tuple)


def mask(codec):
    return keys(codec.shape, codec.shape, order=codec.order) <= cut_key(codec.shape, codec.count, order=codec.order)


@given(
    shape=shapes, order=st.sampled_from(["l1-lex", "linf"]), norm=st.sampled_from(["ortho", "backward"]), data=st.data()
)
def test_decoding_is_the_inverse_transform_of_what_is_kept(shape, order, norm, data):
    kept = data.draw(st.integers(1, math.prod(shape)))
    codec = SpectralCodec(shape, kept, order=order, norm=norm, dtype=torch.float64)
    spectrum = torch.randn(shape, dtype=torch.float64)
    expected = scipy.fft.idctn((spectrum * mask(codec)).numpy(), norm=norm)
    torch.testing.assert_close(codec(spectrum), torch.from_numpy(expected))


@given(shape=shapes, norm=st.sampled_from(["ortho", "backward"]))
def test_with_everything_kept_decoding_undoes_encoding(shape, norm):
    codec, dense = SpectralCodec(shape, norm=norm), torch.randn(shape)
    torch.testing.assert_close(codec(codec.right_inverse(dense)), dense, atol=1e-5, rtol=1e-5)


@given(shape=shapes, data=st.data())
def test_what_is_written_is_all_that_counts(shape, data):
    codec = SpectralCodec(shape, data.draw(st.integers(1, math.prod(shape))))
    code = torch.randn(shape)
    packed = codec.packed(code)
    assert codec.numbers() == sum(part.numel() for part in packed)
    torch.testing.assert_close(codec(codec.unpacked(*packed)), codec(code))
    torch.testing.assert_close(codec.unpacked(*packed), code * mask(codec))


def test_written_coefficients_come_in_the_order():
    codec = SpectralCodec((4, 4), 6)
    assert codec.packed(torch.arange(16.0).reshape(4, 4))[0].tolist() == [0, 1, 4, 2, 5, 8]


def test_the_gradient_is_the_truncated_spectrum_of_the_dense_gradient():
    codec = SpectralCodec((6, 5, 3, 3), 40, dtype=torch.float64)
    code = torch.randn(6, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    (codec(code) * weights).sum().backward()
    torch.testing.assert_close(code.grad, mask(codec) * dctn(weights))


def test_reconstruction_errors_are_those_of_the_paper():
    ramp = torch.arange(16.0, dtype=torch.float64).reshape(4, 4)
    for kept, expected in ((1, 18.439089), (3, 1.307129), (6, 1.307129), (10, 0.0)):
        codec = SpectralCodec((4, 4), kept, dtype=torch.float64)
        full = SpectralCodec((4, 4), dtype=torch.float64).right_inverse(ramp)
        assert expected == pytest.approx(float((codec(full) - ramp).norm()), abs=1e-6)


def test_three_coefficients_hold_a_plane():
    plane = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
    codec = SpectralCodec((3, 3), 3, dtype=torch.float64)
    torch.testing.assert_close(codec(codec.right_inverse(plane)), plane)


def trained(optimizer, *, poison):
    """Anneal while training; at every step, overwrite what is dropped with ``poison``."""
    torch.manual_seed(1)
    codec = SpectralCodec((6, 6), truncation=Truncation(36, 5, "linear"))
    code = nn.Parameter(codec.right_inverse(torch.randn(6, 6)))
    step = optimizer([code])
    for progress in (0.0, 0.2, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0):
        SpectralCodec.anneal_together_([codec], progress)
        with torch.no_grad():
            code[~mask(codec)] += poison
        step.zero_grad()
        (codec(code) - 1).square().sum().backward()
        step.step()
    return codec(code).detach()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    ],
    ids=["momentum and decay", "adam and decay"],
)
def test_dropped_coefficients_cannot_drift_back(optimizer):
    torch.testing.assert_close(trained(optimizer, poison=0.0), trained(optimizer, poison=100.0), atol=0, rtol=0)


def test_not_even_a_nan_comes_back():
    codec = SpectralCodec((4, 4), 3)
    code = torch.full((4, 4), torch.nan)
    code[0, 0], code[0, 1], code[1, 0] = 1.0, 2.0, 3.0
    assert codec(code).isfinite().all()


def test_annealing_is_monotone_and_evaluation_moves_nothing():
    codec = SpectralCodec((8, 8), truncation=Truncation(64, 4))
    counts = []
    for progress in (0.0, 0.3, 0.1, 0.3, 0.6, 1.0, 0.2):
        SpectralCodec.anneal_together_([codec], progress)
        codec.eval()(torch.zeros(8, 8))
        counts.append(int(codec.kept))
    assert counts == sorted(counts, reverse=True)
    assert (counts[-1], codec.count) == (4, 4)


def test_the_box_follows_the_count_a_handful_of_times():
    codec = SpectralCodec((64, 64, 3, 3), truncation=Truncation(36_864, 33))
    boxes = set()
    for step in range(1001):
        SpectralCodec.anneal_together_([codec], step / 1000)
        boxes.add(codec.box)
    assert len(boxes) <= 6
    assert codec.box == (4, 4, 3, 3)


def test_the_count_is_in_the_state_and_sets_the_box_when_loaded():
    source = SpectralCodec((64, 64, 3, 3), truncation=Truncation(36_864, 33))
    SpectralCodec.anneal_together_([source], 0.4)
    target = SpectralCodec((64, 64, 3, 3), truncation=Truncation(36_864, 33))
    target.load_state_dict(source.state_dict())
    assert list(source.state_dict()) == ["kept"]
    assert (source.count, source.box, int(source.cut)) == (target.count, target.box, int(target.cut))


def test_evaluation_decodes_once_and_notices_every_change():
    codec = SpectralCodec((8, 8), truncation=Truncation(64, 8)).eval()
    code = nn.Parameter(torch.randn(8, 8))
    with torch.no_grad():
        first = codec(code)
        assert codec(code) is first
        code.mul_(2)
        torch.testing.assert_close(codec(code), 2 * first)
        SpectralCodec.anneal_together_([codec], 1.0)
        assert not torch.equal(codec(code), 2 * first)
    assert codec(code).requires_grad, "with gradients on, the cache is not used"


def test_writing_into_the_decoded_tensor_does_not_stick():
    codec, code = SpectralCodec((8, 8), 8).eval(), nn.Parameter(torch.randn(8, 8))
    with torch.no_grad():
        expected = codec(code).clone()
        codec(code).zero_()
        torch.testing.assert_close(codec(code), expected)


def test_a_state_can_be_assigned_to_a_model_without_storage():
    source = SpectralCodec((8, 8), 8)
    with torch.device("meta"):
        target = SpectralCodec((8, 8), 9)
    target.load_state_dict(source.state_dict(), assign=True)
    code = torch.randn(8, 8)
    torch.testing.assert_close(target(code), source(code))


def test_a_cast_rounds_neither_counts_nor_bases():
    codec = SpectralCodec((40, 40), 300)
    cast = copy.deepcopy(codec).half()
    code = torch.randn(40, 40).half()
    assert (torch.int64, 300) == (cast.kept.dtype, int(cast.kept))
    torch.testing.assert_close(cast(code), codec(code), atol=0, rtol=0)
    assert torch.float16 == cast(code).dtype


def test_autocast_leaves_the_transform_in_single_precision():
    codec, code = SpectralCodec((40, 40), 300), torch.randn(40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(codec(code), codec(code.clone()), atol=0, rtol=0)
        inside = codec(code)
    torch.testing.assert_close(inside, codec(code), atol=0, rtol=0)


def test_no_mask_and_no_rank_tensor_is_stored():
    codec = SpectralCodec((512, 512, 3, 3), 2360)
    stored = sum(buffer.numel() for buffer in codec.buffers())
    assert stored < 0.02 * 512 * 512 * 9


@pytest.mark.parametrize(
    "spec",
    [
        {}, {"shape": []}, {"shape": [0]}, {"shape": [4.0]}, {"shape": "44"}, {"shape": [4, 4], "kept": 17},
        {"shape": [4, 4], "kept": True}, {"shape": [4, 4], "kept": 1, "order": "zz"}, {"shape": [4], "kept": 1, "x": 1},
        {"shape": [4, 4], "truncation": {"numel": 9, "target": 1}}, {"shape": [4, 4], "truncation": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_spec_from_a_stranger_is_checked(spec):
    with pytest.raises(ValueError, match=r"."):
        SpectralCodec.from_spec(spec)


def test_a_spec_rebuilds_the_codec_and_leaves_out_its_history():
    codec = SpectralCodec((8, 8), truncation=Truncation(64, 8), order="linf", norm="backward")
    SpectralCodec.anneal_together_([codec], 1.0)
    assert codec.spec() == {"shape": [8, 8], "kept": 8, "order": "linf", "norm": "backward"}
    assert codec.spec() == SpectralCodec.from_spec(codec.spec()).spec()


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match=r"needs one part of that length, got \[\(3,\)\]"):
        SpectralCodec((4, 4), 5).unpacked(torch.zeros(3))


def test_spectra_are_drawn_as_the_authors_do():
    model = nn.Sequential(nn.Linear(100, 100))
    nn.utils.parametrize.register_parametrization(model[0], "weight", SpectralCodec((100, 100)))
    draw_spectra_(model, generator=torch.Generator().manual_seed(0))
    code = model[0].parametrizations.weight.original
    assert pytest.approx(code.std().item(), rel=0.05) == 0.1
    assert pytest.approx(model[0].weight.std().item(), rel=0.05) == 0.1
