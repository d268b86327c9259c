"""What the page says about a cut to bands, and about rebuilt filters."""

import pytest

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
