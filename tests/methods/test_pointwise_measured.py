"""What a cut of one layer does by the first order, and what it really does."""

import copy

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.methods.pointwise_measured import corrected
from spectrim.methods.pointwise_prices import keeping
from spectrim.methods.sample import Sample
from spectrim.surgery.edits import SwapModule
from spectrim.surgery.plan import Plan


def images(count=4):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 16, 1, stride=2), nn.ReLU(),
        nn.Conv2d(16, 8, 1),
    ).eval()  # fmt: skip


def layers_of(model):
    return st.PointwisePruning(score="output")._read(model, None, images()).layers


def test_what_a_layer_loses_is_what_its_cut_changes(network):
    layers = layers_of(network)
    with_factor = corrected(network, layers, images())
    bands = keeping(layers, dict.fromkeys(layers, 0.5), "always")
    assert list(bands) == ["2", "4", "6"]
    plan = st.plan(network, st.PointwisePruning(keep=0.5, pays="always", score="output"), calibration=images())
    tried = []
    for path, layer in with_factor.items():
        said = layers[path].rest.gather(1, (bands[path] - 1)[:, None]).sum()
        if said == 0:  # channels that say nothing: other bands were tried
            continue
        alone = Plan("", "", tuple(e for e in plan.edits if isinstance(e, SwapModule) and e.path == path))
        cut = alone.apply_(copy.deepcopy(network))
        with torch.no_grad():
            changed = (cut(images()) - network(images())).square().sum() / 4
        lost = layer.rest.gather(1, (bands[path] - 1)[:, None]).sum()
        torch.testing.assert_close(lost, changed.double(), rtol=1e-4, atol=0)
        tried.append(path)
        assert float(lost) != pytest.approx(float(said), rel=0.01)
    assert len(tried) >= 2


def test_the_model_is_as_it_was(network):
    network.train()
    before = copy.deepcopy(network.state_dict())
    corrected(network, layers_of(network), images())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


def test_layers_that_lose_nothing_keep_their_score():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)).eval()
    nn.init.zeros_(model[1].weight)
    layers = layers_of(model)
    assert torch.equal(corrected(model, layers, images())["1"].rest, layers["1"].rest)


def test_it_is_what_plans_go_by(network):
    plans = {s: st.plan(network, st.PointwisePruning(keep=0.5, pays="always", score=s), calibration=images())
             for s in ("measured", "output")}  # fmt: skip
    default = st.plan(network, st.PointwisePruning(keep=0.5, pays="always"), calibration=images())
    assert [edit.spec["kept"] for edit in default.edits] == [edit.spec["kept"] for edit in plans["measured"].edits]
    assert [e.spec["kept"] for e in default.edits] != [e.spec["kept"] for e in plans["output"].edits]


@pytest.mark.parametrize("count", [1, 5, 16, 17, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_sample_is_spread_over_all_batches_however_they_are_cut(count, size):
    numbers = torch.arange(float(count))[:, None]
    sample = Sample()
    assert torch.equal(torch.cat([*sample.of(numbers.split(size))]), numbers)
    found = sample.images().flatten().tolist()
    assert len(found) == min(16, count)
    assert found == sorted(set(found))
    assert found[0] == 0
    steps = [b - a for a, b in zip(found, [*found[1:], count], strict=True)]
    assert max(steps) <= 3 * count / 16 + 1
    assert found == [float(n) for n in range(count)] or min(steps) >= 0.4 * count / 16


def test_a_sample_is_of_one_size():
    sample = Sample(4)
    assert len([*sample.of([torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 9, 9), torch.ones(2, 3, 8, 8)])]) == 3
    assert sample.images()[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


def test_what_is_tried_are_images_of_all_batches_and_twice_the_same(network, monkeypatch):
    """The first batch is all dark."""
    tried = []
    monkeypatch.setattr(
        "spectrim.methods.pointwise_pruning.corrected", lambda _, layers, x: tried.append(x) or dict(layers)
    )
    batches = [0.1 * images(32), images(32) + 1]
    for _ in range(2):
        st.plan(network, st.PointwisePruning(keep=0.5, pays="always"), calibration=batches)
    dark = [bool(image.max() < 0.5) for image in tried[0]]
    assert dark == [True] * 8 + [False] * 8
    assert torch.equal(*tried)
