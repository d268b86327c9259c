"""Filters rebuilt so that what a layer writes changes least."""

import copy

import pytest
import torch
from torch import nn

from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.template_fitting import fitted_to_outputs, patches, seen, white
from spectrim.nn.templates import Rebuilding
from spectrim.transforms.taps import fitted


def layer_of(convolution: nn.Module, **how) -> TemplateConv:
    """A layer in the place of a copy, with half of its filters to be rebuilt."""
    groups = how.pop("groups", 2)
    sizes = ConvSizes.of(convolution)
    settings = {"keep": 0.5, "least": 2, "stages": 1, "assign": "outputs", "start": "outputs"} | how
    layer = TemplateConv(sizes, groups=groups, rebuilding=Rebuilding(**settings))
    layer.take_over(copy.deepcopy(convolution))
    return layer


def correlated(*shape: int) -> torch.Tensor:
    """What layers read is no noise: channels that have much in common, none of it negative."""
    common = torch.randn(shape[0], 3, *shape[2:])
    return torch.einsum("bc...,dc->bd...", common, torch.randn(shape[1], 3)).relu()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_patches_are_what_a_convolution_reads(dims):
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    convolution = kind(4, 6, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 4, *(7, 6, 5)[:dims])
    found = torch.einsum("pck,nck->pn", patches(x, ConvSizes.of(convolution)), convolution.weight.flatten(2))
    torch.testing.assert_close(found, convolution(x).flatten(2).transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=1e-4)


def test_no_more_is_kept_of_a_batch_than_is_looked_at():
    sizes = ConvSizes.of(nn.Conv2d(2, 4, 3, padding=1, stride=2))
    kept = seen(torch.randn(64, 2, 64, 64), sizes)
    assert kept.shape == (4, 2, 64, 64)
    assert kept.untyped_storage().nbytes() == kept.numel() * 4
    assert patches(kept, sizes).shape == (4096, 2, 9)
    assert seen(torch.randn(2, 8, 8), sizes).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("centred", [False, True])
def test_the_fit_is_the_regression_with_the_best_template(groups, centred):
    torch.manual_seed(0)
    read, wanted, templates = correlated(300, 4, 9), torch.randn(3, 4, 3, 3), torch.randn(5, 4, 3, 3)
    fit = fitted_to_outputs(read, wanted, templates, groups, centred=centred)
    target = torch.einsum("pck,nck->pn", read, wanted.flatten(2)).double()
    ones = torch.ones(300, 1, dtype=torch.float64)
    lost = torch.empty(5, 3)
    for number, template in enumerate(templates):
        latents = torch.einsum("pgck,gck->pgk", read.reshape(300, groups, -1, 9), template.reshape(groups, -1, 9))
        design = torch.cat([latents.flatten(1).double(), ones], dim=1) if centred else latents.flatten(1).double()
        off = target - design @ torch.linalg.lstsq(design, target).solution
        lost[number] = off.square().sum(0)
    total = (target - target.mean(0) * centred).square().sum(0)
    assert fit.template.tolist() == lost.argmin(0).tolist()
    torch.testing.assert_close(fit.explained, 1 - lost.min(0).values.double() / total, atol=0.02, rtol=0)
    again = fitted_to_outputs(read, wanted, templates, groups, centred=centred, template=[0, 1, 2])
    assert again.template.tolist() == [0, 1, 2]
    assert (again.explained <= fit.explained + 1e-9).all()


def test_without_a_batch_the_fit_is_that_of_the_weights():
    torch.manual_seed(1)
    wanted, templates = torch.randn(3, 32, 3, 3), torch.randn(3, 32, 3, 3)
    read = white(ConvSizes.of(nn.Conv2d(32, 3, 3)))
    fit = fitted_to_outputs(read, wanted, templates, 2, template=[0, 1, 2], centred=False)
    torch.testing.assert_close(fit.factors, fitted(wanted, templates, 2), atol=0.01, rtol=0.01)
    layer = layer_of(nn.Conv2d(4, 8, 3))
    TemplateConv.anneal_together_([layer], 1.0)
    assert len(layer.pruned) == 4


def test_more_of_the_output_is_left_than_after_a_fit_of_the_weights():
    torch.manual_seed(2)
    convolution, x = nn.Conv2d(8, 16, 3, padding=1, bias=False), correlated(8, 8, 12, 12)
    lost = {}
    for how in ("outputs", "lstsq"):
        layer = layer_of(convolution, start=how, assign="outputs" if how == "outputs" else "cosine")
        layer.requires_grad_(requires_grad=False)
        layer(x)
        TemplateConv.anneal_together_([layer], 1.0)
        off = (layer(x) - convolution(x)).detach()
        lost[how] = float((off - off.mean((0, 2, 3), keepdim=True)).square().sum())
    assert lost["outputs"] < 0.5 * lost["lstsq"]


def test_a_bias_keeps_the_means_of_what_is_rebuilt():
    torch.manual_seed(3)
    convolution, x = nn.Conv2d(4, 8, 3, padding=1), correlated(4, 4, 9, 9)
    layer = layer_of(convolution)
    layer(x)
    TemplateConv.anneal_together_([layer], 1.0)
    torch.testing.assert_close(layer(x).mean((0, 2, 3)), convolution(x).mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert not torch.equal(layer.bias, convolution.bias)


def test_a_filter_stays_with_its_template_while_that_is_one():
    torch.manual_seed(4)
    layer, x = layer_of(nn.Conv2d(8, 24, 3, bias=False), stages=6, keep=0.25), correlated(4, 8, 8, 8)
    before, kept, numbers = {}, 0, {}
    for step in range(1, 7):
        layer(x)
        TemplateConv.anneal_together_([layer], step / 6)
        for n, template in before.items():
            if template not in layer.pruned:
                kept += 1
                assert int(layer.template[n]) == template
                assert torch.equal(layer._numbers()[:, n], numbers[n])
        before = {n: int(layer.template[n]) for n in layer.pruned}
        numbers = {n: layer._numbers()[:, n].clone() for n in layer.pruned}
        assert not set(before.values()) & layer.pruned
    assert kept > 10


def test_nothing_is_kept_of_a_batch_in_evaluation_or_for_other_settings():
    x = torch.randn(2, 4, 8, 8)
    evaluated, other = layer_of(nn.Conv2d(4, 8, 3)).eval(), layer_of(nn.Conv2d(4, 8, 3), assign="modulo", start="lstsq")
    evaluated(x)
    other(x)
    assert not evaluated._seen
    assert not other._seen


def test_processes_that_saw_other_batches_agree_with_the_first_one(monkeypatch, tmp_path):
    torch.manual_seed(5)
    first = layer_of(nn.Conv2d(4, 8, 3))
    second = copy.deepcopy(first)
    first(correlated(2, 4, 8, 8))
    second(correlated(2, 4, 8, 8))
    names = ("template", "turned", "transformations", "bias")
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        TemplateConv.anneal_together_([first], 1.0)
        sent = iter([getattr(first, name).detach() for name in names])
        monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, _: tensor.copy_(next(sent)))
        TemplateConv.anneal_together_([second], 1.0)
    finally:
        torch.distributed.destroy_process_group()
    assert next(sent, None) is None
    for name in names:
        assert torch.equal(getattr(first, name), getattr(second, name))
