"""The transforms, against scipy and the digest's numbers."""

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectrim.transforms.dct import dct, dctn, forward_basis, idct, idctn, inverse_basis

NORMS = ("ortho", "backward")
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def random(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(shape=shapes, norm=st.sampled_from(NORMS))
def test_all_axes_agree_with_scipy(shape, norm):
    x = random(shape)
    torch.testing.assert_close(dctn(x, norm=norm), torch.from_numpy(scipy.fft.dctn(x.numpy(), norm=norm)))
    torch.testing.assert_close(idctn(x, norm=norm), torch.from_numpy(scipy.fft.idctn(x.numpy(), norm=norm)))


@given(shape=shapes, norm=st.sampled_from(NORMS), data=st.data())
def test_one_axis_agrees_with_scipy(shape, norm, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = random(shape)
    torch.testing.assert_close(dct(x, axis, norm), torch.from_numpy(scipy.fft.dct(x.numpy(), axis=axis, norm=norm)))
    torch.testing.assert_close(idct(x, axis, norm), torch.from_numpy(scipy.fft.idct(x.numpy(), axis=axis, norm=norm)))


@pytest.mark.parametrize("n", [512, 513, 4096])
def test_long_transforms_stay_exact(n):
    x = random((n,))
    torch.testing.assert_close(dct(x), torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho")), atol=1e-12, rtol=1e-12)


@given(shape=shapes)
def test_the_orthonormal_transform_keeps_the_energy(shape):
    x = random(shape)
    torch.testing.assert_close(dctn(x).square().sum(), x.square().sum())


@given(shape=shapes)
def test_the_transform_is_linear(shape):
    x, y = random(shape, 1), random(shape, 2)
    torch.testing.assert_close(dctn(2 * x - y), 2 * dctn(x) - dctn(y))


def test_the_inverse_of_the_papers_small_spectrum():
    spectrum = torch.zeros(4, 4, dtype=torch.float64)
    spectrum[0, 0], spectrum[0, 1], spectrum[1, 0] = 4, 2, -1
    expected = torch.tensor(
        [
            [1.326641, 0.943957, 0.402761, 0.020078],
            [1.517982, 1.135299, 0.594103, 0.211419],
            [1.788581, 1.405897, 0.864701, 0.482018],
            [1.979922, 1.597239, 1.056043, 0.673359],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(idctn(spectrum), expected, atol=1e-6, rtol=0)
    backward = torch.tensor([0.091371, 0.057546, 0.009711, -0.024114], dtype=torch.float64)
    torch.testing.assert_close(idctn(spectrum, norm="backward")[0], backward, atol=1e-6, rtol=0)


def test_the_spectrum_of_a_ramp():
    spectrum = dctn(torch.arange(16.0, dtype=torch.float64).reshape(4, 4))
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, :] = torch.tensor([30, -4.460885, 0, -0.317025])
    expected[1, 0], expected[3, 0] = -17.84354, -1.268101
    torch.testing.assert_close(spectrum, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_cropped_bases_are_corners_of_the_whole_ones(norm):
    torch.testing.assert_close(inverse_basis(9, 4, norm=norm), inverse_basis(9, norm=norm)[:, :4])
    torch.testing.assert_close(forward_basis(9, 4, norm=norm), forward_basis(9, norm=norm)[:4])
    torch.testing.assert_close(
        inverse_basis(9, norm=norm) @ forward_basis(9, norm=norm), torch.eye(9, dtype=torch.float64)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_transformed_in_single(dtype):
    x = random((8, 8)).to(dtype)
    torch.testing.assert_close(dctn(x), dctn(x.float()).to(dtype))


@pytest.mark.parametrize("kept", [0, 5])
def test_a_basis_of_no_or_too_many_frequencies_is_refused(kept):
    with pytest.raises(ValueError, match=rf"kept must lie in \[1, 4\], got {kept}"):
        inverse_basis(4, kept)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be 'ortho' or 'backward', got 'forward'"):
        dct(torch.ones(3), norm="forward")
