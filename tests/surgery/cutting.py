"""What tests of cuts share: a network settled in float64, cuts of half its channels, and the oracle."""

import copy

import torch
from torch import nn

from spectrim import Plan
from spectrim.surgery.channels import cut, groups
from spectrim.surgery.prune import silenced


def settled(model, x):
    """Statistics of its own in every norm, so that a wrong channel shows; everything in float64."""
    model.double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
        model(x)
    return model.eval()


def half(model, found, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        cut(model, group, torch.randperm(len(group.units), generator=generator)[: len(group.units) // 2].tolist())
        for group in found
        if len(group.units) > 1
    )


def assert_equal_to_the_silenced(model, edits, x):
    """The oracle; returns how many parameters are left."""
    whole = copy.deepcopy(model)
    tensors = dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers())
    with torch.no_grad():
        for name, value in silenced(whole, edits).items():
            tensors[name].data.copy_(value)
        expected = whole(x)
        Plan("test", "", edits).apply_(model)
        found = model(x)
    scale = float(expected.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-9 * scale, rtol=1e-9)
    return sum(p.numel() for p in model.parameters())


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def one_cut(model, gone=(1, 2)):
    found, _ = groups(model, [torch.zeros(1, 3, 8, 8)])
    return cut(model, found[0], gone)
