import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectrim.report import units

SHOWN = [units.count, units.short, units.size, units.percent, units.milliseconds]


@pytest.mark.parametrize("show", SHOWN)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, True])
def test_what_is_no_number_becomes_a_dash(show, value):
    assert show(value) == units.MISSING


@pytest.mark.parametrize("show", SHOWN)
@given(st.floats(min_value=0, max_value=1e18))
def test_any_amount_can_be_shown_in_a_few_characters(show, value):
    assert 0 < len(show(value)) < 30
    assert "e" not in show(value)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (9_999, "9,999"), (10_000, "10 k"), (999_999, "1,000 k"), (449.3e9, "449.3 G")]
)
def test_large_counts_are_shortened(value, shown):
    assert units.short(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (1518, "1,518 B"), (9999, "9,999 B"), (10_000, "10 kB"), (366e6, "366 MB")]
)
def test_bytes_are_exact_where_it_matters(value, shown):
    assert units.size(value) == shown


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9))
def test_a_change_is_named_by_its_direction(before, after):
    shown = units.change(before, after)
    assert shown == "the same" or shown.endswith("less" if after < before else "more")


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_there_and_back_again_is_the_same_factor(before, after):
    there, back = units.change(before, after), units.change(after, before)
    if "x" in there:
        assert there.replace("less", "more") == back.replace("less", "more")


def test_a_change_from_or_to_nothing_has_no_factor():
    assert units.change(0, 5) == units.change(5, 0) == units.change(None, 5) == units.MISSING


def test_noise_is_no_change():
    assert units.change(1.0, 1.02, noise=0.03) == "about the same"
    assert units.change(1.0, 1.04, noise=0.03) == "4 % more"


def test_losing_accuracy_has_a_minus_that_is_as_wide_as_a_plus():
    assert units.points(0.99, 0.98) == "−1.00 points"
    assert units.points(0.98, 0.99) == "+1.00 points"
