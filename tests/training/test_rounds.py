"""A network that is cut in several rounds."""

import pytest
import torch

from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import Killed, artifact, cut

ROUNDS = {"rounds": 3, "epochs": 4, "dense_epochs": 1, "ema": 0.9, "precision": "bf16"}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """A run in three rounds, not interrupted."""
    folder = tmp_path_factory.mktemp("rounds")
    return folder, run(settle(cut(**ROUNDS)), folder)


def test_rounds_share_the_epochs_and_end_at_the_widths_of_one_cut(rounds, tmp_path):
    folder, result = rounds
    left = [[edit["width"] - len(edit["channels"]) for edit in plan["edits"]] for plan in result["plans"]]
    assert left == [[4], [3], []]  # of 6 channels 4.8, 3.8 and 3 are meant
    assert [phase.recipe.epochs for phase in settle(cut(**ROUNDS)).phases()] == [1, 1, 1, 2]
    assert result["rounds"] == 3
    once = run(settle(cut(dense_epochs=1)), tmp_path)
    assert once["compressed"]["numbers"] == result["compressed"]["numbers"]
    assert once["compressed"]["bytes"] == result["compressed"]["bytes"]
    assert "The plan, round 3 of 3" in (folder / "report.html").read_text()
    assert "The plan, round" not in (tmp_path / "report.html").read_text()


def test_the_history_of_rounds_is_one_line(rounds):
    history = rounds[1]["history"]
    assert history["compressed"]["steps"] == list(range(1, 45))
    assert [look["step"] for look in history["evaluations"]] == [11, 11, 22, 33, 44]
    assert set(history["seconds"]) == {"dense", "round 1 of 3", "round 2 of 3", "round 3 of 3"}
    lr = history["compressed"]["lr"]
    assert all(lr[start] > 10 * lr[start - 1] for start in (11, 22))  # each round runs through the whole curve


@pytest.mark.parametrize("checkpoints", [4, 6, 7, 8, 9, 12])  # the end of the dense network, then all over the rounds
def test_a_run_killed_in_any_round_goes_on_to_the_same_bytes(rounds, tmp_path, killed_after, checkpoints):
    killed_after(checkpoints)
    with pytest.raises(Killed):
        run(settle(cut(**ROUNDS)), tmp_path, checkpoint_every=4)
    killed_after(0)
    torch.manual_seed(99)
    result = run(settle(cut(**ROUNDS)), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(rounds[0])
    assert result["plans"] == rounds[1]["plans"]
    assert result["history"]["evaluations"] == rounds[1]["history"]["evaluations"]
