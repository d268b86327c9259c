"""Oracles of the transformations of taps, computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spectrim.transforms.taps import (
    FAMILIES,
    fitted,
    fitted_matrices,
    identity,
    matrices,
    shape_of,
    shared_slices,
    spread,
    transformed,
)

NINE = torch.arange(1.0, 10.0, dtype=torch.float64)


def resampled(theta: list[list[float]]) -> Tensor:
    return (matrices("affine", torch.tensor(theta, dtype=torch.float64), (3, 3)) @ NINE).reshape(3, 3)


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        ([[0, -1, 0], [1, 0, 0]], [[3, 6, 9], [2, 5, 8], [1, 4, 7]]),
        ([[-1, 0, 0], [0, 1, 0]], [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
        ([[1, 0, 1], [0, 1, 0]], [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        ([[0.5, 0, 0], [0, 0.5, 0]], [[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]]),
    ],
)
def test_affine_maps_resample_the_kernel(theta, expected):
    torch.testing.assert_close(resampled(theta), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        ([[0, -1, 0], [1, 0, 0]], [[7, 4, 1], [8, 5, 2], [9, 6, 3]]),
        ([[1, 0, 1], [0, 1, 0]], [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        ([[0.5, 0, 0], [0, 0.5, 0]], [[0.25, 2, 0.75], [4, 20, 6], [1.75, 8, 2.25]]),
    ],
)
def test_moved_taps_go_where_the_map_says_and_those_outside_are_lost(theta, expected):
    rows = matrices("affine-moved", torch.tensor(theta, dtype=torch.float64), (3, 3))
    torch.testing.assert_close((rows @ NINE).reshape(3, 3), torch.tensor(expected, dtype=torch.float64))


def test_to_move_taps_is_the_transpose_of_reading_them_there():
    theta = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(matrices("affine-moved", theta, (3, 3)), matrices("affine", theta, (3, 3)).mT)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shared_slices_are_the_best_by_least_squares(groups):
    generator = torch.Generator().manual_seed(groups)
    filters = torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
    best = shared_slices(filters, groups)
    assert best.shape == (5, 6 // groups, 3)

    def error(slices: Tensor) -> Tensor:
        return (spread(slices, groups) - filters).square().sum()

    for _ in range(5):
        other = best + 1e-3 * torch.randn(best.shape, generator=generator, dtype=torch.float64)
        assert error(other) > error(best)


def test_a_turn_of_45_degrees_mixes_four_taps_off_the_centre_lines():
    angle = torch.tensor(math.pi / 4, dtype=torch.float64)
    rows = matrices("rotation", angle, (3, 3))
    expected = [
        [1.171573, 3.585786, 3.514719],
        [2.171573, 5, 7.828427],
        [2.343146, 6.414214, 4.686292],
    ]
    torch.testing.assert_close(
        (rows @ NINE).reshape(3, 3), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (rows.abs() > 1e-12).sum(-1).tolist() == [1, 4, 1, 4, 1, 4, 1, 4, 1]


def test_a_quarter_turn_is_that_of_rot90():
    quarter = torch.tensor(math.pi / 2, dtype=torch.float64)
    turned = (matrices("rotation", quarter, (3, 3)) @ NINE).reshape(3, 3)
    torch.testing.assert_close(turned, torch.rot90(NINE.reshape(3, 3)))


def test_least_squares_factors_by_hand():
    wanted = torch.tensor([[[2.0, 4], [1, 0]], [[1, 1], [0, 3]]], dtype=torch.float64)[None]
    template = torch.tensor([[[1.0, 2], [1, 1]], [[1, 0], [2, 1]]], dtype=torch.float64)[None]
    one = fitted(wanted, template, 1)
    torch.testing.assert_close(one[0, 0], torch.tensor([[1.5, 2], [0.2, 1.5]], dtype=torch.float64))

    def error(factors: Tensor) -> float:
        return float((transformed("scalar", factors, template) - wanted).square().sum())

    assert error(one) == pytest.approx(6.8)
    assert error(torch.ones_like(one)) == pytest.approx(15)
    assert error(torch.zeros_like(one)) == pytest.approx(32)
    two = fitted(wanted, template, 2)
    torch.testing.assert_close(two[:, 0], torch.tensor([[[2.0, 2], [1, 0]], [[1, 0], [0, 3]]], dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_identity_changes_no_filter(family, groups):
    filters = torch.randn(5, 4, 3, 3)
    numbers = identity(family, (3, 3)).expand(groups, 5, *shape_of(family, (3, 3)))
    torch.testing.assert_close(transformed(family, numbers, filters), filters)


@given(st.integers(1, 5), st.integers(1, 2), st.integers(0, 2**31))
def test_a_factor_for_each_tap_is_a_diagonal_matrix(count, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(count, 2 * groups, 3, 2, generator=generator, dtype=torch.float64)
    factors = torch.randn(groups, count, 3, 2, generator=generator, dtype=torch.float64)
    rows = matrices("scalar", factors, (3, 2))
    torch.testing.assert_close(transformed("scalar", factors, filters), transformed("matrix", rows, filters))


def test_the_best_matrix_is_never_worse_than_the_best_factors():
    generator = torch.Generator().manual_seed(0)
    wanted, filters = (torch.randn(6, 24, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    near = transformed("matrix", fitted_matrices(wanted, filters, 2), filters)
    far = transformed("scalar", fitted(wanted, filters, 2), filters)
    assert (near - wanted).square().sum() < (far - wanted).square().sum() < wanted.square().sum()


def test_a_turn_of_a_kernel_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="rotation turns square kernels of two dimensions, got one of"):
        shape_of("rotation", (1, 7))
    with pytest.raises(
        ValueError, match="family must be one of scalar, rotation, affine, affine-moved, matrix, got 'shear'"
    ):
        shape_of("shear", (3, 3))
