"""The network before it was compressed as a teacher."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from spectrim.cli.app import app
from spectrim.training.checkpoint import Checkpoint
from spectrim.training.distillation import distilled, divergence
from spectrim.training.job import Job
from spectrim.training.recipe import Recipe
from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import Killed

STUDENT, TEACHER, CLASS = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, -2.0]]), torch.tensor([0])


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_papers_to_the_printed_digits():
    student, teacher = STUDENT.double(), TEACHER.double()
    assert float(divergence(student, teacher, temperature=5)) == pytest.approx(0.0126096, abs=5e-8)
    assert float(F.cross_entropy(student, CLASS)) == pytest.approx(0.4076060, abs=5e-8)
    assert float(distilled(student, teacher, CLASS, share=0.8)) == pytest.approx(0.0916089, abs=5e-8)


def test_a_share_of_one_reads_no_labels():
    impossible = torch.tensor([99])
    assert distilled(STUDENT, TEACHER, impossible) == divergence(STUDENT, TEACHER, temperature=5)
    with pytest.raises(IndexError):
        distilled(STUDENT, TEACHER, impossible, share=0.9)


def test_a_network_that_is_its_teacher_loses_nothing():
    scores = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert float(divergence(scores, scores)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(scores, scores + 3)) == pytest.approx(0, abs=1e-6)  # scores count up to a constant


def test_only_the_student_learns():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    distilled(student, teacher, CLASS, share=0.5).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_pixels_count_as_images_do():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    labels = torch.randint(3, (2, 4, 5), generator=generator)
    flat = [each.movedim(1, -1).flatten(0, 2) for each in (student, teacher)]
    found = distilled(student, teacher, labels, share=0.3, label_smoothing=0.1)
    assert float(found) == pytest.approx(float(distilled(*flat, labels.flatten(), share=0.3, label_smoothing=0.1)))


# -- in a run ---------------------------------------------------------------------------------------------------------


def job(**changes):
    options = {
        "model": "tests.training.tiny:tiny", "data": "digits", "image_size": 8, "method": "frequency-regularization",
        "settings": {"keep": 0.2}, "dense_epochs": 2, "epochs": 1, "batch_size": 128, "seed": 3, "distill": 1.0,
        "temperature": 1.0,
    }  # fmt: skip
    return Job(**{**options, **changes})


def artifact(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    return folder, run(settle(job()), folder)


def test_a_run_learns_from_the_dense_network_alone(whole, tmp_path):
    setting = settle(job(weights=whole[0] / "dense.safetensors", dense_epochs=None))
    train = setting.source.train
    wrong = replace(train, labels=torch.zeros_like(train.labels))
    run(setting, tmp_path / "labelled")
    run(replace(setting, source=replace(setting.source, train=wrong)), tmp_path / "wrong")
    assert artifact(tmp_path / "wrong") == artifact(tmp_path / "labelled")


def test_the_share_and_the_temperature_are_part_of_the_result(whole):
    recipe = whole[1]["recipe"]
    assert (recipe["compressed"]["distill"], recipe["compressed"]["temperature"]) == (1.0, 1.0)
    assert recipe["dense"]["distill"] is None
    assert "distill" in (whole[0] / "report.html").read_text()


@pytest.mark.parametrize("count", [3, 4])  # 11 steps an epoch: the end of the dense network; amid the other
def test_a_killed_run_finds_its_teacher_again(whole, tmp_path, killed_after, count):
    killed_after(count)
    with pytest.raises(Killed):
        run(settle(job()), tmp_path, checkpoint_every=9)
    assert Checkpoint.read(tmp_path / "checkpoint.safetensors").notes["phase"] == 1
    run(settle(job()), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(whole[0])


@pytest.mark.parametrize("method", [{"method": "cfdp", "settings": {"keep": 0.5, "round_to": 1}},
                                    {"method": "reconstructed-filters", "settings": {"keep": 0.5, "least": 2}, "where": ("conv",)}])  # fmt: skip
def test_every_method_has_a_teacher(tmp_path, method):
    result = run(settle(job(dense_epochs=1, distill=0.5, temperature=None, **method)), tmp_path)
    plain = run(settle(job(dense_epochs=1, distill=None, temperature=None, **method)), tmp_path / "plain")
    assert result["dense"]["metric"] == plain["dense"]["metric"]
    assert artifact(tmp_path) != artifact(tmp_path / "plain")


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": 0.0}, r"must lie in \(0, 1\], got 0\.0"),
        ({"distill": 1.5}, r"must lie in \(0, 1\], got 1\.5"),
        ({"temperature": 0.0}, "temperature must be positive, got 0"),
        ({"distill": None, "temperature": 2.0}, "a temperature of 2 is for --distill"),
        ({"dense_epochs": 0}, "learns from the trained dense network, and here there is none"),
    ],
)
def test_what_cannot_be_distilled_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        job(**changes)


def test_an_untrained_network_is_no_teacher():
    with pytest.raises(ValueError, match="leave out --untrained"):
        job(method="cfdp", settings={}, dense_epochs=None, untrained=True)


def test_a_recipe_asks_no_teacher_by_itself():
    assert Recipe(epochs=1).distill is None


def test_the_shell_distills(tmp_path):
    line = (
        "compress tests.training.tiny:tiny --data digits --image-size 8 --keep 0.2 --dense-epochs 1 --epochs 1 "
        f"--batch-size 128 --distill 0.8 --temperature 4 --out {tmp_path / 'out'}"
    )
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    recipe = json.loads((tmp_path / "out" / "result.json").read_text())["recipe"]["compressed"]
    assert (recipe["distill"], recipe["temperature"]) == (0.8, 4.0)
