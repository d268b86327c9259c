"""How often a job plans, and what it says before that takes long."""

import pytest
from torch import nn

import spectrim
from spectrim.errors import SiteError
from spectrim.training import outcome, waiting
from spectrim.training.job import Job
from spectrim.training.run import run
from spectrim.training.setting import settle
from spectrim.training.waiting import measuring_waits, planning_waits


def narrow(in_channels: int, num_classes: int) -> nn.Module:
    wide = (nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU())
    return nn.Sequential(*wide, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


def job(**changes):
    options = {
        "model": "tests.training.test_planning:narrow", "data": "digits", "image_size": 8, "method": "pointwise-pruning",
        "settings": {"keep": 0.25, "pays": "always"}, "dense_epochs": 0, "epochs": 0, "batch_size": 256,
    }  # fmt: skip
    return Job(**{**options, **changes})


@pytest.fixture
def plans(monkeypatch):
    """Every plan that is made."""
    made, plan = [], spectrim.plan

    def remembered(*args, **more):
        made.append(plan(*args, **more))
        return made[-1]

    monkeypatch.setattr(spectrim, "plan", remembered)
    return made


@pytest.mark.parametrize(("dense_epochs", "count"), [(0, 1), (1, 2)])
def test_the_plan_that_was_checked_is_carried_out_unless_training_comes_before(plans, tmp_path, dense_epochs, count):
    result = run(settle(job(dense_epochs=dense_epochs)), tmp_path)
    assert len(plans) == count
    assert [edit["path"] for edit in result["plans"][0]["edits"]] == [edit.path for edit in plans[-1].edits] == ["2"]
    (whole, kept, transforms), left = plans[-1].edits[0].spec["macs"], result["compressed"]
    assert left["macs_without_transforms"] == result["dense"]["macs"] - whole + kept == left["macs"] - transforms
    assert [(form["site"], list(form["ms"])) for form in left["forms"]] == [
        ("2", ["dense", "banded"]), ("(the model)", ["dense", "banded"]),
    ]  # fmt: skip


def test_what_is_planned_for_batches_is_finalized_and_timed_on_batches(monkeypatch, tmp_path):
    timed, clock = [], outcome.paired_latency
    monkeypatch.setattr(outcome, "paired_latency", lambda models, x: timed.append(x.shape[0]) or clock(models, x))
    single, several = (
        run(settle(job(settings={"keep": 0.25, "pays": "always", "batch": batch})), tmp_path / str(batch))
        for batch in (1, 3)
    )
    assert timed == [1, 3]
    assert [form["input"][0] for form in several["compressed"]["forms"]] == [3, 3]
    assert several["compressed"]["macs"] == single["compressed"]["macs"]
    assert several["method"]["batch"] == 3


def test_that_planning_to_a_time_takes_long_is_said_before_it_begins(monkeypatch):
    monkeypatch.setattr(waiting, "to_compile", lambda: False)
    said = []
    with pytest.raises(SiteError, match="finds nothing to edit"):  # as all of the time may be taken
        settle(job(settings={"target": "time:1"}), say=said.append)
    assert ["time:1" in each for each in said] == [True]
    settle(job(settings={"target": "macs:0.9"}), say=said.append)
    assert len(said) == 1


def test_that_nothing_is_learned_without_epochs_is_said(monkeypatch):
    monkeypatch.setattr(waiting, "to_compile", lambda: False)
    said = []
    settings = {"keep": 0.5, "pays": "always", "learn": True}
    settle(job(settings=settings, epochs=1), say=said.append)
    assert said == []
    settle(job(settings=settings), say=said.append)
    assert said == [
        "asked to learn the bands, found no epochs to learn them in: they stay as calibrated. Give --epochs."
    ]


POINTWISE = spectrim.PointwisePruning


@pytest.mark.parametrize(
    ("method", "planning", "measuring"),
    [
        (POINTWISE(), [], ["networks are timed in the end; the kernels for this machine are compiled first"]),
        (POINTWISE(pays="time"), ["every layer is timed in both forms, some seconds each; the kernels"], []),
        (
            POINTWISE(learn=True, weigh="time"),
            ["every layer is timed in both forms, some seconds each; the kernels"],
            [],
        ),
        (
            POINTWISE(target="time:0.9"),
            ["cut networks are timed until target 'time:0.9' is met, which can take minutes; the"],
            [],
        ),
        (spectrim.CFDP(target="latency:0.9"), ["timed until target 'latency:0.9' is met, which can take minutes"], []),
        (spectrim.CFDP(target="macs:0.9"), [], []),
        (spectrim.FrequencyRegularization(keep=0.1), [], []),
        (
            spectrim.ReconstructedFilters(),
            [],
            ["networks are timed in the end; the kernels for this machine are compiled first"],
        ),
        (spectrim.ReconstructedFilters(family="rotation"), [], []),
    ],
    ids=str,
)
def test_what_takes_long_is_said_with_the_kernels_where_they_are_missing(monkeypatch, method, planning, measuring):
    monkeypatch.setattr(waiting, "to_compile", lambda: True)
    for found, expected in ((planning_waits(method), planning), (measuring_waits(method), measuring)):
        assert len(found) == len(expected)
        assert all(part in sentence for part, sentence in zip(expected, found, strict=True))
    monkeypatch.setattr(waiting, "to_compile", lambda: False)
    assert not any("kernels" in sentence for sentence in (*planning_waits(method), *measuring_waits(method)))
