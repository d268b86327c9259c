"""Budgets: what may be asked for, and how it is said."""

import json

import pytest

import spectrim as st
from spectrim.budget import Budget, Target


@pytest.mark.parametrize(
    ("text", "quantity", "amount"),
    [
        ("macs:0.5", "macs", 0.5),
        ("macs:1", "macs", 1.0),
        ("params:100000", "params", 1e5),
        ("macs:45e6", "macs", 45e6),
        ("latency:.7", "latency", 0.7),
    ],
)
def test_a_target_is_a_quantity_and_a_number(text, quantity, amount):
    target = Target.parse(text)
    assert (target.quantity, target.amount) == (quantity, amount)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs", "target must be QUANTITY:NUMBER with one of macs, params, latency, for example macs:0.5, got 'macs'"),
        ("macs:0.5:1", "got 'macs:0.5:1'"),
        ("0.5", "got '0.5'"),
        (0.5, "got 0.5"),
        ("bytes:0.5", "got 'bytes:0.5', which is about 'bytes'"),
        ("macs:half", r"a target of macs is a fraction in \(0, 1\] or a number above 100, got 'half'"),
        ("macs:", "got ''"),
        ("macs:0", "got '0'"),
        ("macs:-1", "got '-1'"),
        ("macs:nan", "got 'nan'"),
        ("params:inf", "got 'inf'"),
        ("macs:50", r"For 50 percent, write macs:0\.5\."),
        ("time:5", r"a target of time is a fraction in \(0, 1\], got '5'.*write time:0\.05"),
        ("latency:5", r"a target of latency is a fraction in \(0, 1\], got '5'"),
        ("latency:500", r"a target of latency is a fraction in \(0, 1\], got '500'"),
    ],
)
def test_what_is_no_target_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Target.parse(text)


def test_a_method_may_understand_less():
    with pytest.raises(
        ValueError, match=r"one of bytes, for example bytes:0\.5, got 'macs:0\.5', which is about 'macs'"
    ):
        Target.parse("macs:0.5", ["bytes"])


def test_a_budget_stands_in_the_plans_headline_and_survives_json():
    budget = Budget(target="latency:0.7", dense=1.0, left=0.683, how="median of 9 rounds")
    plan = st.Plan("CFDP()", "Net", (), budget=budget)
    assert str(plan).endswith("; latency 0.683 of dense, asked 0.7 (median of 9 rounds)")
    assert st.Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["budget"]["fraction"] == 0.683


def test_a_plan_written_before_there_were_budgets_is_read():
    document = json.loads(st.Plan("CFDP()", "Net", ()).to_json())
    del document["budget"]
    assert st.Plan.from_json(json.dumps(document)).budget is None


@pytest.mark.parametrize(
    "budget",
    [
        {"target": "macs:0.5"},
        {"target": "macs:0.5", "dense": "1", "left": 1, "how": ""},
        {"target": "macs:0.5", "dense": 1, "left": 1, "how": 3},
        {"target": "macs", "dense": 1, "left": 1, "how": ""},
        {"target": "macs:0.5", "dense": float("nan"), "left": 1, "how": ""},
        7,
    ],
)
def test_a_damaged_budget_is_a_damaged_plan(budget):
    document = json.loads(st.Plan("CFDP()", "Net", ()).to_json()) | {"budget": budget}
    with pytest.raises(st.PlanError, match="not a plan"):
        st.Plan.from_json(json.dumps(document))
