import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectrim.nn.spectral import SpectralCodec
from spectrim.report import coefficients_for, cumulative_energy, spectra
from spectrim.report.spectrum import log_counts
from spectrim.transforms.ordering import positions

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(SHAPES)
def test_the_curve_is_that_of_scipys_transform_in_the_order_of_the_method(shape):
    dense = torch.randn(shape)
    order = positions(shape, dense.numel()).numpy()
    energy = np.cumsum(np.square(scipy.fft.dctn(dense.double().numpy(), norm="ortho").ravel()[order]))
    np.testing.assert_allclose(cumulative_energy(dense).numpy(), energy / energy[-1], atol=1e-5)


@given(SHAPES)
def test_the_curve_never_falls_and_ends_at_one(shape):
    curve = cumulative_energy(torch.randn(shape))
    assert curve.shape == (math.prod(shape),)
    assert (curve.diff() >= 0).all()
    assert curve[-1] == 1


@pytest.mark.parametrize("kept", [1, 7, 33])
def test_the_energy_at_a_count_is_what_the_codec_keeps(kept):
    dense = torch.randn(6, 5, 3, 3)
    codec = SpectralCodec(dense.shape, kept)
    cut = codec(codec.right_inverse(dense))
    expected = float(cut.square().sum() / dense.square().sum())
    assert float(cumulative_energy(dense)[kept - 1]) == pytest.approx(expected, abs=1e-5)


def test_a_truncated_tensor_has_all_its_energy_in_what_is_kept():
    codec = SpectralCodec((8, 8), 10)
    curve = cumulative_energy(codec(codec.right_inverse(torch.randn(8, 8))))
    assert curve[9] == pytest.approx(1)
    assert coefficients_for(0.9999, curve) <= 10


def test_the_count_for_a_share_is_the_first_that_reaches_it():
    curve = torch.tensor([0.5, 0.75, 0.75, 1.0], dtype=torch.float64)
    wanted = {0.1: 1, 0.5: 1, 0.51: 2, 0.75: 2, 0.76: 4, 1.0: 4}
    assert {share: coefficients_for(share, curve) for share in wanted} == wanted


@pytest.mark.parametrize("share", [0.0, -1.0, 99.0])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        coefficients_for(share, torch.ones(3))


def test_nothing_is_all_in_the_first_coefficient():
    assert coefficients_for(0.99, cumulative_energy(torch.zeros(3, 3))) == 1


def test_half_precision_is_transformed_in_single():
    dense = torch.randn(16, 16).half()
    torch.testing.assert_close(cumulative_energy(dense), cumulative_energy(dense.float()))


@given(st.integers(1, 10**7), st.integers(1, 60))
def test_counts_on_a_log_axis_go_from_one_to_all(numel, points):
    counts = log_counts(numel, points)
    assert counts[-1] == numel
    assert points == 1 or counts[0] == 1
    assert counts == sorted(set(counts))
    assert len(counts) <= points + 1


def test_spectra_have_the_form_of_the_result_file():
    before = {"a.weight": torch.randn(9, 4), "b.weight": torch.randn(5)}
    rows = spectra(before, {"b.weight": torch.ones(5)}, {"b.weight": 2}, points=3)
    assert [row["site"] for row in rows] == ["b.weight"]
    (row,) = rows
    assert row["counts"] == [1, 2, 5]
    (crowded,) = spectra(before, before, {"a.weight": 17}, points=2)
    assert crowded["counts"] == [1, 17, 36]
    assert row["numel"] == 5
    assert row["kept"] == 2
    assert row["compressed"] == [1.0, 1.0, 1.0]
    assert row["dense"][-1] == 1.0
    assert row["dense"][0] < 1.0
