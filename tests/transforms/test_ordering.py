"""The orders, against the digest's ranks, masks and shells, and against a plain sort."""

import hashlib
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectrim.transforms.ordering import ORDERS, box_sides, cut_key, keys, positions, shell_sizes

RANKS = {
    (4, 4): [[0, 1, 3, 6], [2, 4, 7, 10], [5, 8, 11, 13], [9, 12, 14, 15]],
    (3, 5): [[0, 1, 3, 6, 9], [2, 4, 7, 10, 12], [5, 8, 11, 13, 14]],
    (2, 3, 2): [[[0, 1], [2, 4], [5, 8]], [[3, 6], [7, 9], [10, 11]]],
    (2, 3, 2, 2): [
        [[[0, 1], [2, 5]], [[3, 6], [7, 12]], [[8, 13], [14, 19]]],
        [[[4, 9], [10, 15]], [[11, 16], [17, 20]], [[18, 21], [22, 23]]],
    ],
    (2, 2, 3, 3): [
        [[[0, 1, 5], [2, 6, 13], [7, 14, 23]], [[3, 8, 15], [9, 16, 24], [17, 25, 31]]],
        [[[4, 10, 18], [11, 19, 26], [20, 27, 32]], [[12, 21, 28], [22, 29, 33], [30, 34, 35]]],
    ],
}
SHELLS = {
    (64, 64, 3, 3): [1, 5, 15, 33, 60, 96, 141, 195, 258, 330],
    (64, 3, 3, 3): [1, 5, 15, 32, 55, 81, 108, 135, 162, 189],
    (64, 64, 2, 2): [1, 5, 13, 25, 41, 61, 85, 113, 145, 181],
    (64, 64, 5, 5): [1, 5, 15, 35, 70, 124, 200, 300, 425, 575],
    (64, 64): [1, 3, 6, 10, 15, 21, 28, 36, 45, 55],
    (64, 64, 1, 1): [1, 3, 6, 10, 15, 21, 28, 36, 45, 55],
    (64, 3, 11, 11): [1, 5, 15, 34, 65, 111, 175, 260, 369, 505],
}
MASKS = [
    ((4, 4), 3, (2, 2), "ea0cfe6da5945cbe"),
    ((4, 4), 5, (2, 3), "1d4f5882fef8b6f8"),
    ((8, 1, 5, 5), 128, (8, 1, 5, 5), "1f1e8cdcf6f76166"),
    ((64, 3, 3, 3), 33, (4, 3, 3, 3), "cb77219a2f8fffa6"),
    ((64, 3, 3, 3), 128, (7, 3, 3, 3), "2fb5e26c09ab7813"),
    ((64, 64, 3, 3), 33, (4, 4, 3, 3), "21e3a7c9b2a1d5a6"),
    ((64, 64, 3, 3), 128, (6, 7, 3, 3), "5ca029b9bbec2799"),
    ((64, 64, 3, 3), 370, (10, 11, 3, 3), "9342f5d5ee9044f2"),
    ((64, 3, 11, 11), 128, (6, 3, 7, 7), "50e41f6edd80cb43"),
    ((64, 3, 11, 11), 233, (7, 3, 8, 8), "9870be9e1b118d16"),
    ((256, 256, 3, 3), 5899, (37, 38, 3, 3), "5833fe3d954e779e"),
    ((512, 512, 3, 3), 2360, (24, 25, 3, 3), "aa1f08de9e46be5f"),
    ((512, 512, 3, 3), 23595, (73, 74, 3, 3), "ab4e9440f975b411"),
    ((1024, 512, 2, 2), 33, (4, 5, 2, 2), "e6fa3ee95f0d0a2d"),
    ((512, 1536), 7865, (124, 125), "409a000804d40d85"),
    ((4096, 4096), 256, (22, 23), "1918ab0e7e2a9459"),
    ((2, 64, 1, 1), 33, (2, 17, 1, 1), "67f98a1d3ca90ec2"),
]


def ranks(shape, order="l1-lex"):
    order_of = keys(shape, shape, order=order).flatten().argsort()
    rank = torch.empty_like(order_of)
    rank[order_of] = torch.arange(len(order_of))
    return rank.reshape(shape)


@pytest.mark.parametrize(("shape", "expected"), RANKS.items(), ids=str)
def test_ranks_are_those_of_the_paper(shape, expected):
    assert expected == ranks(shape).tolist()


@pytest.mark.parametrize(("shape", "expected"), SHELLS.items(), ids=str)
def test_shells_cumulate_as_in_the_paper(shape, expected):
    assert expected == list(itertools.accumulate(shell_sizes(shape)))[:10]


@pytest.mark.parametrize(("shape", "kept", "box", "digest"), MASKS, ids=str)
def test_masks_and_boxes_are_those_of_the_paper(shape, kept, box, digest):
    mask = keys(shape, shape) <= cut_key(shape, kept)
    assert digest == hashlib.sha256(mask.to(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    assert box == box_sides(shape, kept)


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)


@given(shape=shapes, order=st.sampled_from(ORDERS), data=st.data())
def test_the_cut_keeps_exactly_the_first_of_a_plain_sort(shape, order, data):
    kept = data.draw(st.integers(1, math.prod(shape)))
    level = sum if order == "l1-lex" else max
    expected = sorted(itertools.product(*map(range, shape)), key=lambda index: (level(index), index))[:kept]
    flat = [sum(i * math.prod(shape[axis + 1 :]) for axis, i in enumerate(index)) for index in expected]
    assert flat == positions(shape, kept, order=order).tolist()
    mask = keys(shape, shape, order=order) <= cut_key(shape, kept, order=order)
    assert kept == int(mask.sum())
    assert tuple(max(column) + 1 for column in zip(*expected, strict=True)) == box_sides(shape, kept, order=order)
    assert math.prod(shape) == sum(shell_sizes(shape, order=order))


def test_a_cut_of_a_huge_tensor_needs_no_tensor():
    shape = (4096, 9216)
    assert box_sides(shape, 377_489) == (868, 869)
    assert cut_key(shape, 377_489) > 0


@pytest.mark.parametrize("kept", [0, 17])
def test_a_count_out_of_range_is_refused(kept):
    with pytest.raises(ValueError, match=rf"kept must lie in \[1, 16\].*got {kept}"):
        cut_key((4, 4), kept)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="order must be one of 'l1-lex', 'linf', got 'zigzag'"):
        shell_sizes((4, 4), order="zigzag")
