"""A run that several files look at, and a way to kill one."""

import pytest

from spectrim.training.checkpoint import Checkpoint
from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import Killed, job


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """One uninterrupted run, and its result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(settle(job()), folder)


@pytest.fixture
def killed_after(monkeypatch):
    """Let the run die right after so many checkpoints are written."""
    write = Checkpoint.write

    def arm(count):
        written = []

        def write_and_die(self, path):
            write(self, path)
            written.append(path)
            if len(written) == count:
                raise Killed

        monkeypatch.setattr(Checkpoint, "write", write_and_die)

    yield arm
    monkeypatch.undo()
