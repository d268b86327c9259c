"""What a model costs with fewer channels, held against really cut copies."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from spectrim.measure import Costs, macs, parameters
from spectrim.surgery.channels import cut, groups
from spectrim.surgery.prune import PruneChannels, removed
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.resnet_cifar import resnet20
from spectrim.zoo.vgg import vgg16_bn


class Shared(nn.Module):
    """A convolution that runs twice under two names, two that share a weight, and a transposed one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.again = nn.Sequential(self.twice, nn.ReLU())
        self.one, self.other = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1, bias=False)
        self.other.weight = self.one.weight
        self.up = nn.ConvTranspose2d(16, 24, 2, stride=2)
        self.out = nn.Conv2d(24, 4, 1)

    def forward(self, x):
        x = self.again(self.twice(self.stem(x)).relu())
        return self.out(self.up(self.one(x) + self.other(x)).relu())


class Tokens(nn.Module):
    """Linear layers on tokens."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(6, 32), nn.Linear(32, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return self.head((x + self.down(self.up(x).relu())).mean(1))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (resnet20, (1, 3, 32, 32)),
        (vgg16_bn, (1, 3, 32, 32)),
        (googlenet, (1, 3, 32, 32)),
        (lambda: torchvision.models.mobilenet_v2(num_classes=10), (1, 3, 64, 64)),
        (lambda: torchvision.models.resnet18(num_classes=10), (1, 3, 64, 64)),
        (Shared, (1, 3, 8, 8)),
        (Tokens, (1, 6, 4, 4)),
    ],
    ids=["resnet20", "vgg16_bn", "googlenet", "mobilenet_v2", "resnet18", "shared", "tokens"],
)
def test_the_product_is_what_a_cut_copy_really_costs(make, shape):
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(shape)
    costs = Costs.of(model, x)
    assert costs.parameters() == parameters(model)
    assert costs.macs() == macs(model, x)
    found, _ = groups(model, [x])
    assert found
    for share in (0.3, 0.8):
        edits = []
        for group in found:
            gone = torch.randperm(len(group.units))[: int(share * len(group.units))].tolist()
            edits.append(cut(model, group, gone))
        small = copy.deepcopy(model)
        PruneChannels.prepare_together(edits, small)[0]()
        gone = {site: {dim: len(indices) for dim, indices in axes.items()} for site, axes in removed(edits).items()}
        assert costs.parameters(gone) == parameters(small) < parameters(model)
        assert costs.macs(gone) == macs(small, x) < macs(model, x)


def test_without_inputs_parameters_are_counted_alone():
    costs = Costs.of(nn.Linear(4, 2), None)
    assert costs.positions is None
    assert (costs.parameters(), costs.macs()) == (10, 0)
