"""What becomes of a job that is stopped or killed, and of its folder."""

import errno
import os
import signal
from contextlib import contextmanager

import pytest
import torch

from spectrim.errors import ArtifactError, SpectrimError
from spectrim.training.progress import Silent
from spectrim.training.run import run
from spectrim.training.setting import settle
from spectrim.training.watched import StoppedError
from tests.training.jobs import Killed, artifact, job


@pytest.mark.parametrize("checkpoints", [1, 4, 5, 6, 8])  # 22 steps a phase: mid-dense, last of dense, start, mid, end
def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path, killed_after, checkpoints):
    killed_after(checkpoints)
    with pytest.raises(Killed):
        run(settle(job()), tmp_path, checkpoint_every=5)
    killed_after(0)
    torch.manual_seed(99)  # whatever state the next process starts in
    result = run(settle(job()), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(whole[0])
    assert result["compressed"]["metric"] == whole[1]["compressed"]["metric"]
    assert result["dense"]["metric"] == whole[1]["dense"]["metric"]
    assert result["history"]["kept"] == whole[1]["history"]["kept"]


def test_a_run_killed_twice_goes_on_to_the_same_bytes(whole, tmp_path, killed_after):
    for count in (2, 3):
        killed_after(count)
        with pytest.raises(Killed):
            run(settle(job()), tmp_path, checkpoint_every=4, resume=True)
    killed_after(0)
    run(settle(job()), tmp_path, resume=True, checkpoint_every=3)
    assert artifact(tmp_path) == artifact(whole[0])


def test_a_killed_run_takes_its_moving_average_up(tmp_path, killed_after):
    options = {"dense_epochs": 1, "epochs": 1, "ema": 0.9}
    whole = run(settle(job(**options)), tmp_path / "whole")
    killed_after(4)  # eleven steps of the dense network, eleven of the compressed: in the middle of these
    with pytest.raises(Killed):
        run(settle(job(**options)), tmp_path / "killed", checkpoint_every=5)
    killed_after(0)
    again = run(settle(job(**options)), tmp_path / "killed", resume=True)
    assert artifact(tmp_path / "killed") == artifact(tmp_path / "whole")
    assert again["history"]["evaluations"] == whole["history"]["evaluations"]
    run(settle(job(**{**options, "ema": None})), tmp_path / "plain")
    assert artifact(tmp_path / "plain") != artifact(tmp_path / "whole")


class Interrupting(Silent):
    """Presses Ctrl-C at the first look in the compressing phase."""

    def __init__(self):
        self.name = ""

    @contextmanager
    def phase(self, name, *, total, done):
        self.name = name
        yield

    def step(self, done, text):
        if self.name == "compressed" and done == 4:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(whole, tmp_path):
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs have it ignored
    with pytest.raises(StoppedError, match=r"stopped at step 4 of 22 \(compressed\). Go on with --resume."):
        run(settle(job()), tmp_path, reporter=Interrupting())
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "model.safetensors").exists()
    run(settle(job()), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(whole[0])


def test_resuming_a_finished_run_changes_nothing(whole):
    folder, _ = whole
    before = artifact(folder)
    again = run(settle(job()), folder, resume=True)
    assert artifact(folder) == before
    assert again["compressed"]["metric"] == whole[1]["compressed"]["metric"]


def test_resuming_nothing_starts(tmp_path):
    run(settle(job(dense_epochs=0, epochs=0)), tmp_path / "new", resume=True)
    assert (tmp_path / "new" / "model.safetensors").is_file()


def test_another_job_cannot_be_resumed(whole):
    with pytest.raises(SpectrimError, match=r"seed was 3, now 4; .*|run of another job: .*seed was 3, now 4"):
        run(settle(job(seed=4)), whole[0], resume=True)


def test_a_folder_with_a_run_is_not_overwritten_by_accident(whole):
    with pytest.raises(SpectrimError, match=r"already holds a run\. Pass --resume"):
        run(settle(job()), whole[0])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpectrimError, match="is a file; a folder"):
        run(settle(job()), tmp_path / "file")


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    data = (whole[0] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: damaged"):
        run(settle(job()), tmp_path, resume=True)


def test_a_full_disk_leaves_the_old_artifact_whole(tmp_path, monkeypatch):
    short = job(dense_epochs=0, epochs=0)
    run(settle(short), tmp_path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("spectrim.artifact.writer.os.fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left on device.*as it was"):
        run(settle(job(dense_epochs=0, epochs=0, seed=9)), tmp_path, overwrite=True)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
