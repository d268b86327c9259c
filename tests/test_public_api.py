"""The public names are what we say they are, and each says what it is.

A name that slips in by accident has users the day after, and a name that slips out breaks them; so the list stands here
a second time, and changing it takes two deliberate edits and a line in the changelog.
"""

import inspect
import sys

import pytest

import spectrim

PUBLIC = [
    "ArtifactError",
    "CFDP",
    "DataError",
    "FrequencyRegularization",
    "OrderError",
    "Plan",
    "PlanError",
    "PointwisePruning",
    "ReconstructedFilters",
    "SiteError",
    "SpectrimError",
    "UnsupportedError",
    "anneal_",
    "compress_",
    "finalize_",
    "inspect",
    "inspect_channels",
    "inspect_frequencies",
    "load_",
    "penalty",
    "plan",
    "reestimate_norms_",
    "repair_",
    "save",
]


def test_the_public_names_are_these():
    assert list(spectrim.__all__) == PUBLIC, "an intended change? Then change this list and CHANGELOG.md with it."


def test_the_public_names_are_sorted_and_exist():
    assert sorted(spectrim.__all__) == list(spectrim.__all__)
    for name in spectrim.__all__:
        getattr(spectrim, name)


def test_nothing_else_looks_public():
    visible = {name for name in dir(spectrim) if not name.startswith("_")}
    assert visible - set(spectrim.__all__) <= {name for name in visible if f"spectrim.{name}" in sys.modules}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str):
    thing = getattr(spectrim, name)
    assert inspect.getdoc(thing), f"spectrim.{name} has no docstring"
    if inspect.isfunction(thing):
        assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(thing).parameters.values())
        hints = inspect.get_annotations(thing)
        assert set(hints) == {*inspect.signature(thing).parameters, "return"}, f"spectrim.{name} lacks annotations"


def test_every_exception_is_a_spectrim_error():
    errors = [getattr(spectrim, name) for name in PUBLIC if name.endswith("Error")]
    assert all(issubclass(error, spectrim.SpectrimError) for error in errors)
