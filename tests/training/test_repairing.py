"""A cut network that is repaired before it trains."""

import pytest
import torch

from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import Killed, artifact, cut, job


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """A cut that was repaired, and trained for an epoch; not interrupted."""
    folder = tmp_path_factory.mktemp("repaired")
    return folder, run(settle(cut(dense_epochs=3, dtype="float32")), folder)


def test_a_cut_is_repaired_before_it_trains(repaired, tmp_path):
    (report,) = repaired[1]["history"]["repairs"]
    assert [row["path"] for row in report["refitted"]] == ["fc"]
    assert report["images"] == [560, 80]
    assert report["after"] < report["before"]
    found = {}
    for repair in (False, True):
        options = {"weights": repaired[0] / "dense.safetensors", "dense_epochs": None, "epochs": 0, "repair": repair}
        found[repair] = run(settle(cut(**options)), tmp_path / str(repair))
    assert found[False]["history"]["repairs"] == []
    assert found[True]["compressed"]["metric"] > found[False]["compressed"]["metric"]
    assert found[True]["compressed"]["bytes"] == found[False]["compressed"]["bytes"]


@pytest.mark.parametrize("checkpoints", [4, 5, 6])  # 11 steps an epoch: last of dense, start of compressed, later
def test_a_killed_run_with_a_repair_goes_on_to_the_same_bytes(repaired, tmp_path, killed_after, checkpoints):
    asked = cut(dense_epochs=3, dtype="float32")
    killed_after(checkpoints)
    with pytest.raises(Killed):
        run(settle(asked), tmp_path, checkpoint_every=9)
    killed_after(0)
    torch.manual_seed(99)
    again = run(settle(asked), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(repaired[0])
    assert again["history"]["repairs"] == repaired[1]["history"]["repairs"]


def test_a_repair_is_the_default_where_a_cut_leaves_weights():
    assert cut().repairs
    assert not cut(repair=False).repairs
    assert not cut(reinit="all").repairs
    assert not job().repairs
    assert job(method="pointwise-pruning", settings={}).repairs
    assert not job(method="pointwise-pruning", settings={"learn": True}).repairs


def test_the_calibration_is_spread_over_the_training_images():
    setting = settle(cut())
    batches = list(setting.calibration)
    train = setting.source.train
    assert [len(batch) for batch in batches] == [64] * 10
    last = setting.prepare(train.batch(torch.tensor([639 * len(train) // 640]))[0])
    assert torch.equal(batches[-1][-1:], last)
