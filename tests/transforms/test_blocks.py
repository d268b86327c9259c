"""Block transforms against scipy, patch by patch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from spectrim.transforms.blocks import block_coefficients, block_dctn

SIDES = st.integers(1, 13)


def by_hand(image, size, scale, sigma):
    out = np.empty_like(image)
    for i in range(0, image.shape[0], size):
        for j in range(0, image.shape[1], size):
            patch = image[i : i + size, j : j + size]
            if sigma is not None:
                patch = gaussian_filter(patch, sigma)
            spectrum = dctn(patch, norm="ortho") if scale == "ortho" else dctn(patch, norm="backward") / 4
            out[i : i + size, j : j + size] = spectrum
    return out


@given(SIDES, SIDES, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["ortho", "none"]), st.sampled_from([None, 1, 10]))
def test_every_patch_is_scipys_transform(height, width, size, scale, sigma):
    image = np.random.default_rng(height * 100 + width).normal(size=(2, height, width))
    expected = np.stack([by_hand(each, size, scale, sigma) for each in image])
    found = block_dctn(torch.from_numpy(image), size, scale=scale, sigma=sigma)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("side", [63, 64, 65, 128, 131])
def test_large_images_are_transformed_in_tiles(side):
    image = np.random.default_rng(0).normal(size=(side, 5))
    np.testing.assert_allclose(block_dctn(torch.from_numpy(image), 4), by_hand(image, 4, "ortho", None), atol=1e-12)


def test_parseval():
    x = torch.randn(2, 3, 14, 7)
    torch.testing.assert_close(block_dctn(x, 4).square().sum((-2, -1)), x.square().sum((-2, -1)))


def test_half_precision_is_transformed_in_float32():
    x = torch.randn(4, 8, 8)
    torch.testing.assert_close(block_dctn(x.half(), 4), block_dctn(x.half().float(), 4))


@pytest.mark.parametrize(("size", "sigma"), [(0, None), (4, 0.0), (4, -1.0), (4, float("nan"))])
def test_sizes_are_positive(size, sigma):
    with pytest.raises(ValueError, match="at least 1 and sigma positive"):
        block_dctn(torch.zeros(4, 4), size, sigma=sigma)


@given(
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    size=st.sampled_from([2, 3, 4]),
    scale=st.sampled_from(["ortho", "none"]),
    sigma=st.sampled_from([None, 1.0]),
    wide=st.booleans(),
)
def test_coefficients_are_the_same_numbers_in_another_order(height, width, size, scale, sigma, wide):
    dtype = torch.float64 if wide else torch.float32
    x = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height), dtype=dtype)
    found = block_coefficients(x, size, scale=scale, sigma=sigma).sort()[0]
    expected = block_dctn(x, size, scale=scale, sigma=sigma).flatten(1).sort()[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [20, 32, 56])
def test_maps_that_are_views_have_the_same_coefficients(side):
    x = torch.rand(3, side, side, 2, generator=torch.Generator().manual_seed(0)).movedim(-1, 1)[1:]
    before = x.clone()
    found = block_coefficients(x, 4)
    torch.testing.assert_close(found.sort()[0], block_dctn(x, 4).flatten(2).sort()[0], atol=1e-5, rtol=1e-5)
    found.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize(("size", "sigma"), [(0, None), (4, 0.0), (4, -1.0)])
def test_sizes_of_coefficients_are_positive(size, sigma):
    with pytest.raises(ValueError, match="at least 1 and sigma positive"):
        block_coefficients(torch.zeros(4, 4), size, sigma=sigma)
