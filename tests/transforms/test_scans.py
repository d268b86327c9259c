"""The orders of a block's frequencies, and the transform as one matrix."""

import numpy as np
import pytest
import scipy.fft
import torch

from spectrim.transforms.scans import SCANS, block_basis, scan


def pairs(side, order="zigzag"):
    return [divmod(position, side) for position in scan(side, side, order)]


def test_zigzag_is_that_of_jpeg():
    assert pairs(3) == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (1, 2), (2, 1), (2, 2)]
    assert pairs(4) == [
        (0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2),
        (2, 1), (3, 0), (3, 1), (2, 2), (1, 3), (2, 3), (3, 2), (3, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("order", SCANS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 7), (8, 3)])
def test_an_order_is_a_permutation_that_begins_with_the_mean(order, size):
    found = scan(*size, order)
    assert found[0] == 0
    assert sorted(found) == list(range(size[0] * size[1]))


def test_radial_and_square_rise_in_their_measure():
    assert [u * u + v * v for u, v in pairs(7, "radial")] == sorted(u * u + v * v for u in range(7) for v in range(7))
    assert [max(p) for p in pairs(7, "square")] == sorted(max(u, v) for u in range(7) for v in range(7))


@pytest.mark.parametrize("size", [(4, 4), (7, 7), (3, 5)])
def test_the_matrix_is_the_orthonormal_transform(size):
    order = scan(*size)
    basis = block_basis(size, order)
    block = np.arange(size[0] * size[1], dtype=float).reshape(size)
    expected = scipy.fft.dctn(block, norm="ortho").flatten()[order]
    np.testing.assert_allclose(basis @ torch.from_numpy(block.flatten()), expected, atol=1e-12)
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(order), dtype=torch.float64))


def test_the_transform_of_a_ramp():
    coefficients = (block_basis((4, 4), range(16)) @ torch.arange(16.0, dtype=torch.float64)).reshape(4, 4)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for (u, v), value in {
        (0, 0): 30,
        (0, 1): -4.460885,
        (0, 3): -0.317025,
        (1, 0): -17.84354,
        (3, 0): -1.268101,
    }.items():
        expected[u, v] = value
    torch.testing.assert_close(coefficients, expected, atol=1e-6, rtol=0)


def test_what_is_no_order_is_refused():
    with pytest.raises(ValueError, match="order must be one of 'zigzag', 'radial', 'square', got 'spiral'"):
        scan(2, 2, "spiral")
    with pytest.raises(ValueError, match="two sides of at least 1, got 0 x 2"):
        scan(0, 2)
