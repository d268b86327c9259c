"""What is quick for training computes what is simple."""

import math

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectrim.transforms.dct import dctn, leading_dctn
from spectrim.transforms.ordering import ORDERS, box_sides, cut_key, kept_inside, keys

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=5).map(tuple)


@given(shape=shapes, order=st.sampled_from(ORDERS), data=st.data())
def test_the_quick_comparison_cuts_where_the_keys_cut(shape, order, data):
    kept = data.draw(st.integers(1, math.prod(shape)))
    cut, box = cut_key(shape, kept, order=order), box_sides(shape, kept, order=order)
    inside = kept_inside(shape, box, torch.tensor(cut), order=order)
    assert torch.equal(inside, keys(shape, box, order=order) <= cut)
    assert int(inside.sum()) == kept


@given(shape=shapes, norm=st.sampled_from(["ortho", "backward"]), data=st.data())
def test_leading_frequencies_are_a_corner_of_the_spectrum(shape, norm, data):
    sides = tuple(data.draw(st.integers(1, n)) for n in shape)
    x = torch.randn(shape, dtype=torch.float64)
    corner = dctn(x, norm=norm)[tuple(slice(side) for side in sides)]
    torch.testing.assert_close(leading_dctn(x, sides, norm), corner)


@pytest.mark.parametrize("side", [3, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_long_axes_lose_no_digit(side, dtype):
    x = torch.randn(200, 5).to(dtype)
    exact = torch.from_numpy(scipy.fft.dctn(x.double().numpy(), norm="ortho")[:side])
    torch.testing.assert_close(leading_dctn(x, (side, 5)).double(), exact, atol=1e-5, rtol=1e-5)


def test_a_trained_tensor_and_a_transposed_one_are_encoded_like_any_other():
    x = torch.randn(90, 70, requires_grad=True)
    torch.testing.assert_close(leading_dctn(x.T, (70, 90)), dctn(x.detach().T), atol=1e-5, rtol=1e-5)
