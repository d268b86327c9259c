"""A cut network that trains from other weights than the cut left."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

import spectrim
from spectrim.training.recipes import CARDS
from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import cut, job
from tests.training.tiny import tiny


def written(folder):
    return spectrim.load_(tiny(), Path(folder) / "model.safetensors").state_dict()


def test_an_untrained_network_is_cut_and_trained_from_fresh_weights(tmp_path):
    asked = {"dense_epochs": None, "untrained": True, "dtype": "float32", "epochs": 0, "recipe": None}
    setting = settle(cut(**asked))
    assert [phase.steps for phase in setting.phases()] == [0, 0]
    result = run(setting, tmp_path)
    assert result["start"] == "all"
    assert result["dense"]["metric"] < 0.5
    dense, small, fresh = load_file(tmp_path / "dense.safetensors"), written(tmp_path), setting.fresh().state_dict()
    (edit,) = result["plans"][0]["edits"]
    stays = [channel for channel in range(6) if channel not in edit["channels"]]
    assert torch.equal(dense["conv.weight"], setting.network().state_dict()["conv.weight"])
    assert torch.equal(small["conv.weight"], fresh["conv.weight"][stays])
    assert not torch.equal(small["conv.weight"], dense["conv.weight"][stays])


def test_an_untrained_network_trains_like_a_dense_one():
    asked = job(method="cfdp", settings={}, dense_epochs=None, epochs=None, untrained=True, batch_size=None).recipes()
    assert asked.compressed == replace(asked.dense, epochs=asked.compressed.epochs)
    assert (asked.dense.epochs, asked.compressed.epochs) == (0, 30)
    assert cut(untrained=True, dense_epochs=None, epochs=None).recipes().compressed.lr == CARDS["short"].lr


def test_the_start_of_the_releases_keeps_the_weights_of_convolutions_alone(tmp_path):
    setting = settle(cut(epochs=0, dense_epochs=1, reinit="hrankplus", dtype="float32"))
    result = run(setting, tmp_path)
    dense, small, fresh = load_file(tmp_path / "dense.safetensors"), written(tmp_path), setting.fresh().state_dict()
    (edit,) = result["plans"][0]["edits"]
    stays = [channel for channel in range(6) if channel not in edit["channels"]]
    assert torch.equal(small["conv.weight"], dense["conv.weight"][stays])
    assert small["norm.running_mean"].tolist() == [0] * 3
    assert small["norm.weight"].tolist() == [1] * 3
    assert torch.equal(small["conv.bias"], fresh["conv.bias"][stays])
    assert torch.equal(small["fc.bias"], fresh["fc.bias"])
    assert result["dense"]["metric"] > result["compressed"]["metric"]
