"""What cannot work is refused before any time is spent, or as soon as that is seen."""

from pathlib import Path

import pytest
import torch

import spectrim
from spectrim.errors import ArtifactError, SpectrimError
from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import job


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"settings": {"keep": 0}}, ValueError, r"keep must lie in \(0, 1\], got 0"),
        ({"settings": {"keep": 5}}, ValueError, "For 5 percent, pass keep=0.05"),
        ({"settings": {"kepe": 0.1}}, ValueError, "has no setting 'kepe'. It has keep, floor"),
        ({"where": ("head*",)}, spectrim.SiteError, r"where='head\*' matches none"),
        ({"method": "magic"}, spectrim.SiteError, "no method 'magic'. There are cfdp, frequency-regularization"),
        ({"model": "lenet"}, spectrim.SiteError, "no network 'lenet'. Did you mean 'lenet5'"),
        ({"data": "mnist:/nowhere"}, spectrim.DataError, "there is no folder '/nowhere'"),
        ({"weights": Path("/nowhere.pt")}, ArtifactError, "there is no weights file"),
        ({"precision": "fp16"}, spectrim.UnsupportedError, "--precision fp16 needs an accelerator"),
        ({"model": "tests.training.tiny:two_outputs"}, spectrim.UnsupportedError, "returns tuple; a tensor of class"),
        ({"model": "tests.training.tiny:wrong_outputs"}, spectrim.UnsupportedError, r"scores of shape \(2, 3\)"),
        ({"model": "lenet5"}, spectrim.UnsupportedError, "at least 16x16 pixels, got 8x8"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"lr": 0.0}, ValueError, "learning rate must be positive"),
        ({"epochs": -1}, ValueError, "epochs must be at least 0"),
        ({"batch_size": 0}, ValueError, "batch size must be at least 1"),
        ({"anneal": 0.0}, ValueError, r"anneal must lie in \(0, 1\]"),
        ({"rounds": 0}, ValueError, "asked for 0 rounds of 2 epochs together"),
        ({"rounds": 3}, ValueError, "asked for 3 rounds of 2 epochs together"),
        (
            {"rounds": 2},
            spectrim.UnsupportedError,
            "2 rounds of frequency-regularization, which reaches its target while",
        ),
        (
            {"repair": True},
            ValueError,
            r"a repair \(--repair\) is for weights that a cut left, of cfdp, pointwise-pruning; got freq",
        ),
        (
            {"method": "cfdp", "settings": {}, "reinit": "all", "repair": True},
            ValueError,
            "got cfdp that starts from fresh weights",
        ),
        (
            {"method": "pointwise-pruning", "settings": {"learn": True}, "repair": True},
            ValueError,
            "got pointwise-pruning that learns its bands. Leave it out",
        ),
        ({"reinit": "some"}, ValueError, "reinit must be one of none, hrankplus, all, got 'some'"),
        ({"reinit": "all"}, ValueError, "for one round of cfdp, got 1 of frequency-regularization"),
        (
            {"method": "cfdp", "settings": {}, "rounds": 2, "untrained": True},
            ValueError,
            "for one round of cfdp, got 2 of",
        ),
        ({"method": "cfdp", "settings": {}, "untrained": True}, ValueError, "leave out --weights and --dense-epochs"),
        (
            {"method": "cfdp", "settings": {}},
            spectrim.SiteError,
            "finds nothing to edit in Tiny; spectrim plan says why",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes, error, message):
    if changes.get("precision") == "fp16" and torch.cuda.is_available():
        pytest.skip("fp16 works here")
    with pytest.raises(error, match=message):
        settle(job(**changes), cpu=False)


def test_a_run_that_diverges_says_so(tmp_path):
    with pytest.raises(SpectrimError, match="Lower --lr"):
        run(settle(job(dense_lr=1e30, dense_epochs=1)), tmp_path)
