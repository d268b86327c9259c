"""Bands: the worked examples of the method, and the groups against all partitions."""

import itertools
import random

import pytest
import torch

from spectrim.transforms.bands import grouped, hard_counts, rounded_up, soft_band


def test_a_ramp_of_one_coefficient_sums_to_the_fractional_count():
    band = soft_band(torch.tensor([2.5]), 4)
    assert band.tolist() == [[1, 1, 0.5, 0]]
    assert band.sum() == 2.5


def test_a_wide_ramp_has_its_support_where_the_hard_cut_is():
    band = soft_band(torch.tensor([5.5]), 8, 4)
    assert band.tolist() == [[1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]]
    assert band.sum() == 4
    assert hard_counts(torch.tensor([5.5]), 8).tolist() == [6] == [int((band > 0).sum())]


def test_the_mean_always_stays():
    band = soft_band(torch.tensor([0.3, 1.0]), 5, 4)
    assert band[:, 0].tolist() == [1, 1]
    assert hard_counts(torch.tensor([-1.0, 0.3]), 5).tolist() == [1, 1]


def test_the_gradient_is_that_of_the_worked_example():
    coefficients = torch.tensor([[5.0, -1, -2, 0], [0, 0, 1, -1]])
    weight = torch.tensor([[1.0, 2], [-1, 3]])
    kept = torch.tensor([1.5, 2.25], requires_grad=True)
    loss = 0.5 * (weight @ (soft_band(kept, 4) * coefficients)).square().sum()
    loss.backward()
    assert loss.item() == 25.65625
    assert kept.grad.tolist() == [1.0, 3.25]


@pytest.mark.parametrize("frequencies", [16, 49, 64])
def test_a_fraction_of_a_count_gives_the_count_back(frequencies):
    counts = torch.arange(1, frequencies + 1)
    assert hard_counts(counts / frequencies * frequencies, frequencies).equal(counts)


def test_two_groups_of_the_worked_example():
    counts = [3, 1, 4, 2]
    assert torch.tensor(counts).argsort(descending=True).tolist() == [2, 0, 3, 1]
    assert [sum(k > f for k in counts) for f in range(4)] == [4, 3, 2, 1]
    groups = grouped(counts, 2)
    assert groups == [(2, 4), (2, 2)]
    assert sum(size * kept for size, kept in groups) == 12


def test_groups_are_the_best_of_all_partitions():
    draw = random.Random(0)
    for _ in range(50):
        counts = [draw.randint(1, 6) for _ in range(draw.randint(1, 7))]
        ordered = sorted(counts, reverse=True)
        for most in range(1, 5):
            best = min(
                sum((end - start) * ordered[start] for start, end in itertools.pairwise((0, *cuts, len(counts))))
                for pieces in range(min(most, len(counts)))
                for cuts in itertools.combinations(range(1, len(counts)), pieces)
            )
            groups = grouped(counts, most)
            assert len(groups) <= most
            assert sum(size for size, _ in groups) == len(counts)
            assert [kept for _, kept in groups] == sorted({kept for _, kept in groups}, reverse=True)
            assert sum(size * kept for size, kept in groups) == best
            raised = rounded_up(torch.tensor(counts), most)
            assert int(raised.sum()) == best
            assert bool((raised >= torch.tensor(counts)).all())
            assert raised.unique().numel() <= most


def test_as_many_groups_as_counts_leave_all_as_they_are_at_once():
    counts = list(range(1, 1025)) * 2  # a search over all partitions of these would take minutes
    assert grouped(counts, 1024) == [(2, count) for count in range(1024, 0, -1)]
    assert rounded_up(torch.tensor(counts), 2000).tolist() == counts


def test_no_group_at_all_is_refused():
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        grouped([1], 0)
