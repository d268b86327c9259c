"""The refit of the benchmark's control: what plain pruning keeps makes up for what it took."""

import copy
from pathlib import Path

import torch
from torch import nn

import spectrim as st
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.conv3(torch.relu(self.bn2(self.conv2(x))))


def test_a_refit_brings_a_pruned_network_closer_to_what_it_was_and_leaves_what_is_pruned(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from pruned_refit import due, plain, refit_
    from template_cifar10 import prune_

    torch.manual_seed(0)
    model, images = Block().eval(), torch.rand(48, 3, 12, 12)
    st.reestimate_norms_(model, images)
    st.compress_(model, st.ReconstructedFilters(keep=0.7, least=4, stages=2), where=("conv1", "conv2"))
    before = plain(model)
    assert due(model, 0.5)
    st.anneal_(model, 0.5)
    assert not due(model, 0.5)
    prune_(model)
    left = copy.deepcopy(model)
    refit_(model, before, images)
    layers = {path: each for path, each in components(model) if isinstance(each, TemplateConv)}
    assert sum(len(each.pruned) for each in layers.values()) == 6
    with torch.no_grad():
        wanted, fitted, unfitted = (each(images) for each in (before, model, left))
        assert (fitted - wanted).square().mean() < 0.5 * (unfitted - wanted).square().mean()
    for path, layer in layers.items():
        gone, norm = sorted(layer.pruned), model.get_submodule(path.replace("conv", "bn"))
        assert torch.equal(layer.weight[gone], left.get_submodule(path).weight[gone])
        assert not norm.weight[gone].any()
        assert not norm.bias[gone].any()


def test_the_arm_is_the_control_with_the_refit_alone_added(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from dataclasses import replace

    from template_cifar10 import ARMS

    assert replace(ARMS["resnet20-48-pruned-refit"], refit=False) == ARMS["resnet20-48-pruned"]
    assert ARMS["resnet20-48-pruned-refit"].seeds == (0, 1, 2)
