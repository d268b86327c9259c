"""Networks whose filters are rebuilt from others while they train."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spectrim as st
from spectrim.nn import components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.report import before_after
from spectrim.training import clocked
from spectrim.training.job import Job
from spectrim.training.optimizer import check_optimizer, optimizer_for
from spectrim.training.recipe import Recipe
from spectrim.training.recipes import CARDS, recipes_for
from spectrim.training.run import run
from spectrim.training.setting import settle


def made(in_channels: int, num_classes: int) -> nn.Module:
    return network()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 12, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


def rebuilt(**settings) -> nn.Sequential:
    return st.compress_(network(), st.ReconstructedFilters(**{"keep": 0.5, "least": 2, "stages": 4, **settings}))


def layers(model: nn.Module) -> list[TemplateConv]:
    return [each for _, each in components(model) if isinstance(each, TemplateConv)]


@pytest.mark.parametrize("decayed", ["weights", "all"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_leaves_transformations_alone(decayed, kind):
    model = rebuilt()
    st.anneal_(model, 1.0)
    recipe = Recipe(epochs=1, optimizer=kind, lr=0.1, weight_decay=0.5, decayed=decayed)
    optimizer = optimizer_for(model, recipe)
    before = [(each.transformations.clone(), each.weight.clone()) for each in layers(model)]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for layer, (transformations, weight) in zip(layers(model), before, strict=True):
        assert torch.equal(layer.transformations, transformations)
        assert not torch.equal(layer.weight, weight)
    bias_moves = not torch.equal(model[7].bias, network()[7].bias)
    assert bias_moves == (decayed == "all")


def test_one_optimizer_serves_from_the_first_step_to_the_last_and_keeps_what_it_remembers_of_templates():
    model = rebuilt()
    optimizer = optimizer_for(model, Recipe(epochs=1, optimizer="sgd", lr=0.01))
    images, labels = torch.rand(8, 1, 8, 8), torch.randint(10, (8,))

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    momenta = {id(each.weight): optimizer.state[each.weight]["momentum_buffer"].clone() for each in layers(model)}
    st.anneal_(model, 1.0)
    check_optimizer(model, optimizer)
    for layer in layers(model):
        assert layer.pruned
        assert torch.equal(optimizer.state[layer.weight]["momentum_buffer"], momenta[id(layer.weight)])
    before = [(layer.filters().clone(), layer.transformations.clone()) for layer in layers(model)]
    step()
    for layer, (filters, transformations) in zip(layers(model), before, strict=True):
        assert (layer.filters() != filters).flatten(1).any(1).all()  # templates and what is made of them
        used = layer.turned[layer.turned >= 0].long()
        moved = (layer.transformations != transformations).view(layer.groups, -1, 9).flatten(2).any(2)
        assert moved[:, used].all()
        assert int(moved.sum()) == layer.groups * len(used)


def test_the_card_tunes_a_trained_network_and_rebuilds_early():
    card = recipes_for("resnet20", "reconstructed-filters").compressed
    assert card == replace(CARDS["short"], anneal=0.4)
    assert card.decayed == "weights"
    assert recipes_for("timm:vit_tiny", "reconstructed-filters").compressed.optimizer == "adamw"
    assert recipes_for("resnet20", "reconstructed-filters", "official").compressed == CARDS["official"]


def test_a_run_tells_what_is_left_of_the_layers_with_rebuilt_filters(monkeypatch, tmp_path):
    monkeypatch.setattr(clocked, "build", lambda: None)
    options = {"image_size": 8, "dense_epochs": 0, "epochs": 0, "settings": {"keep": 0.5, "least": 2}}
    job = Job(model="tests.training.test_rebuilding:made", data="digits", method="reconstructed-filters", **options)
    result = run(settle(job), tmp_path)
    rows = [row for row in st.inspect(tmp_path / "model.safetensors").rows if row.kind == "template-conv"]
    assert sum(row.numel for row in rows) == 9 * (16 * 8 + 12 * 16)
    assert (
        result["compressed"]["rebuilt_numbers"] == sum(row.kept for row in rows) < sum(row.numel for row in rows) / 1.5
    )
    assert [row[1] for row in before_after(result).rows if row[0] == "  in rebuilt layers"] == ["2,880"]
