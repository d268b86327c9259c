"""How often a job plans, and what it says before that takes long."""

import pytest
from torch import nn

import spectrim
from spectrim.errors import SiteError
from spectrim.training.job import Job
from spectrim.training.run import run
from spectrim.training.setting import settle


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


def test_that_planning_to_a_time_takes_long_is_said_before_it_begins():
    said = []
    with pytest.raises(SiteError, match="finds nothing to edit"):  # as all of the time may be taken
        settle(job(settings={"target": "time:1"}), say=said.append)
    assert ["time:1" in each for each in said] == [True]
    settle(job(settings={"target": "macs:0.9"}), say=said.append)
    assert len(said) == 1
