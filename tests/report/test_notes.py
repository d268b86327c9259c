"""What the page says about a cut to bands, and about rebuilt filters."""

import pytest

from spectrim.report.forms import rows, summary
from spectrim.report.notes import notes


def run(after, epochs=0, edits=()):
    return {
        "dense": {"metric": 0.797},
        "compressed": {"metric": after},
        "recipe": {"compressed": {"epochs": epochs}},
        "plans": [{"edits": list(edits)}],
    }


def said(result, part):
    return [each for each in notes(result) if part in each]


def test_a_loss_that_nothing_was_trained_after_comes_with_what_to_do():
    (note,) = said(run(0.5), "Nothing was trained")
    assert "29.7" in note
    assert "--epochs" in note
    assert not said(run(0.795), "Nothing was trained")
    assert not said(run(0.5, epochs=3), "Nothing was trained")


def test_multiplications_of_bands_are_told_from_those_of_the_plain_form():
    edits = [{"spec": {"macs": [1_000_000, 300_000, 50_000]}}, {"spec": {"macs": [2_000_000, 500_000, 70_000]}}]
    (note,) = said(run(0.79, edits=edits), "by rows and columns")
    assert "2 pointwise layers of 3 M multiplications became 800" in note
    assert not said(run(0.79, edits=[{"spec": {"rank": 3}}]), "by rows and columns")


def test_a_network_with_bands_is_not_called_an_ordinary_one():
    banded, plain = run(0.79, edits=[{"spec": {"macs": [9, 3, 1]}}]), run(0.79)
    for result in (banded, plain):
        result["compressed"]["bytes"] = {"payload": 0, "plain": 900, "total": 1_000}
    assert said(plain, "holds an ordinary network")
    assert not said(banded, "holds an ordinary network")


@pytest.mark.parametrize(
    ("settings", "offered"),
    [
        ({}, "--set assign=outputs --set start=outputs"),
        ({"assign": "outputs", "start": "lstsq", "family": "scalar"}, "write (--set start=outputs)"),
        ({"assign": "outputs", "start": "outputs"}, "more templates (--keep)"),
        ({"family": "rotation"}, "more templates (--keep)"),
        ({"family": "rotation", "target": "macs:0.6"}, "or a larger --target."),
    ],
)
def test_a_great_loss_of_rebuilt_filters_comes_with_what_to_try(settings, offered):
    rebuilt = {"rebuilt": {"layers": [{"site": "a", "filters": 4, "made": {"1": 0}}]}, "method": settings}
    (note,) = said(run(0.7, epochs=1) | rebuilt, "rebuilt filters")
    assert "9.70 points" in note
    assert "--epochs" in note
    assert offered in note
    assert not said(run(0.7, epochs=1), "rebuilt filters")
    assert not said(run(0.75, epochs=1) | rebuilt, "rebuilt filters")
    assert not said(run(0.7, epochs=0) | rebuilt, "rebuilt filters"), "that nothing was trained is said"


def test_a_network_that_is_no_faster_is_put_down_to_calls_only_where_nothing_better_is_known():
    result = {"dense": {"macs": 90, "latency_ms": 1.0}, "compressed": {"macs": 50, "latency_ms": 1.1}}
    forms = [
        {"site": "a", "input": [1, 8, 4, 4], "ms": {"dense": 0.2, "banded": 0.3}, "taken": "banded"},
        {"site": "b", "input": [1, 8, 4, 4], "ms": {"dense": 0.2, "banded": 0.1}, "taken": "banded"},
        {"site": "(the model)", "input": [1, 3, 4, 4], "ms": {"dense": 1.0, "banded": 1.1}, "taken": "banded"},
    ]
    (note,) = said(result, "44 % fewer multiplications")
    assert "memory traffic" in note
    result["compressed"]["forms"] = forms[1:]
    assert said(result, "memory traffic")
    result["compressed"]["forms"] = forms
    (note,) = said(result, "44 % fewer multiplications")
    assert "1 of 2 pointwise layers run slower with their bands than dense" in note
    assert "bench --restore" in note
    assert "memory traffic" not in note
    assert rows(result)[0] == {
        "site": "a", "input": "1×8×4×4", "ms": "dense 0.200 · banded 0.300", "taken": "banded", "share": "1.50",
    }  # fmt: skip


def test_one_line_says_how_many_layers_lose_by_their_bands():
    form = {"site": "a", "ms": {"dense": 0.2, "banded": 0.3}, "taken": "banded"}
    assert summary({"compressed": {"forms": [form, form]}}) == (
        "2 pointwise layers were timed dense and with bands: 2 slower with bands, which spectrim bench --restore makes dense"
    )
    assert summary({"compressed": {"forms": [form | {"taken": "dense"}]}}) == ""
