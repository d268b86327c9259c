"""In what form networks are measured side by side."""

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.training import clocked
from spectrim.training.clocked import made_ready_


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()


def wide():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()


def last(x):
    return x.is_contiguous(memory_format=torch.channels_last)


def test_beside_a_banded_network_the_dense_one_has_its_channels_last_too(monkeypatch):
    built = []
    monkeypatch.setattr(clocked, "build", lambda: built.append(True))
    plain, x = dense(), torch.rand(1, 3, 18, 18)
    cut = st.compress_(dense(), st.PointwisePruning(keep=0.5, pays="always"), calibration=x)
    laid = made_ready_([plain, cut], x)
    assert last(laid)
    assert last(plain[0].weight)
    assert built == [True]
    made_ready_([plain, cut], x, compile_kernels=False)
    assert built == [True]


@pytest.mark.parametrize(("family", "compiled"), [("scalar", [True]), ("rotation", [])])
def test_rebuilt_filters_are_measured_with_channels_last_and_with_kernels_where_there_are_any(
    monkeypatch, family, compiled
):
    built = []
    monkeypatch.setattr(clocked, "build", lambda: built.append(True))
    plain, x = wide(), torch.rand(1, 3, 18, 18)
    rebuilt = st.compress_(wide(), st.ReconstructedFilters(family=family, least=2))
    assert last(made_ready_([plain, rebuilt], x))
    assert last(plain[2].weight)
    assert built == compiled


def test_other_networks_are_measured_as_they_are(monkeypatch):
    monkeypatch.setattr(clocked, "build", lambda: None)
    plain, x = dense(), torch.rand(1, 3, 18, 18)
    coded = st.compress_(dense(), st.FrequencyRegularization(keep=0.5))
    assert made_ready_([plain, coded], x) is x
    assert not last(plain[0].weight)
