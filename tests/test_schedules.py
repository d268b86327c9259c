"""Schedules start at 0, end at 1 and never fall."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectrim.schedules import cosine, exponential, linear

CURVES = {"linear": linear, "cosine": cosine, "exponential": lambda p: exponential(p, rate=7.0)}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_a_schedule_rises_from_nothing_to_everything(curve, a, b):
    assert curve(0) == 0
    assert curve(1) == pytest.approx(1)
    assert curve(min(a, b)) <= curve(max(a, b)) + 1e-12


def test_an_exponential_of_rate_zero_is_linear():
    assert exponential(0.3, rate=0) == 0.3


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_out_of_range_is_refused(progress):
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\]"):
        linear(progress)
