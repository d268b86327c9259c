"""Runs in processes of their own: killed without warning, and two at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
JOB = [
    "compress", "tests.training.tiny:tiny", "--data", "digits", "--image-size", "8", "--keep", "0.2", "--floor", "1",
    "--dense-epochs", "1", "--batch-size", "128", "--seed", "3", "--cpu",
]  # fmt: skip


def spectrim(*arguments):
    return [sys.executable, "-m", "spectrim", *arguments]


def ended(command, **options):
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done


def port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def torchrun(*arguments):
    front = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return [*front, "--master_addr", "127.0.0.1", "--master_port", port(), "-m", "spectrim", *arguments]


def wait_for_phase(folder, phase, process, seconds=120):
    """Until the checkpoint says that a phase is under way."""
    from spectrim.errors import ArtifactError
    from spectrim.training.checkpoint import Checkpoint

    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        path = folder / "checkpoint.safetensors"
        try:
            notes = Checkpoint.read(path).notes
        except ArtifactError:  # not there yet, or another one while it was being read
            notes = {"phase": -1}
        if notes["phase"] == phase and notes["step"] > 0:
            return
        time.sleep(0.02)
    pytest.fail("the run did not get there in time")


ROUNDS = [
    "compress", "tests.training.tiny:tiny", "--data", "digits", "--image-size", "8", "--method", "cfdp", "--keep", "0.5",
    "--set", "round_to=1", "--rounds", "2", "--ema", "0.9", "--dense-epochs", "1", "--batch-size", "128", "--cpu",
]  # fmt: skip


@pytest.mark.parametrize(
    ("job", "phase"), [([*JOB, "--epochs", "12"], 1), ([*ROUNDS, "--epochs", "24"], 2)], ids=["coding", "second round"]
)
def test_kill_9_in_the_middle_and_resume_give_the_same_bytes_as_an_uninterrupted_run(tmp_path, job, phase):
    victim = subprocess.Popen(
        spectrim(*job, "--checkpoint-every", "2", "--out", str(tmp_path / "a")),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_phase(tmp_path / "a", phase, victim)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert not (tmp_path / "a" / "model.safetensors").exists()
    ended(spectrim(*job, "--resume", "--out", str(tmp_path / "a")))
    done = ended(spectrim(*job, "--out", str(tmp_path / "b")))
    killed, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert killed == whole
    assert "accuracy" in done.stdout
    assert str(tmp_path / "b" / "report.html") in done.stdout


def test_two_processes_train_the_network_that_one_trains(tmp_path):
    job = [*JOB, "--epochs", "2", "--ema", "0.5"]
    done = ended(torchrun(*job, "--out", str(tmp_path / "two")))
    assert done.stdout.count("accuracy") == 1  # the first process speaks for both
    ended(spectrim(*job, "--out", str(tmp_path / "one")))
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert two["hardware"]["processes"] == 2
    # the same batches, shared: the same network but for dropout's other draws and the order of sums
    assert two["layers"] == one["layers"]
    assert two["dense"]["metric"] == pytest.approx(one["dense"]["metric"], abs=0.1)
    assert two["compressed"]["bytes"] == one["compressed"]["bytes"]


def test_two_processes_cut_alike_in_every_round(tmp_path):
    ended(torchrun(*ROUNDS, "--epochs", "2", "--out", str(tmp_path / "two")))
    ended(spectrim(*ROUNDS, "--epochs", "2", "--out", str(tmp_path / "one")))
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert [plan["after"] for plan in two["plans"]] == [plan["after"] for plan in one["plans"]]
    assert two["compressed"]["bytes"] == one["compressed"]["bytes"]
    assert two["compressed"]["metric"] == pytest.approx(one["compressed"]["metric"], abs=0.15)


def test_an_error_is_one_sentence_from_one_of_two_processes(tmp_path):
    wrong = torchrun(*JOB[:2], "--data", "digits", "--keep", "5", "--cpu", "--out", str(tmp_path / "x"))
    done = subprocess.run(wrong, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("spectrim: keep must lie in (0, 1], got 5.") == 1
