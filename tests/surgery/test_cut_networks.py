"""Cutting channels: the cut network computes what the whole one does when nothing reads the channels that go."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from spectrim.surgery.channels import groups
from spectrim.surgery.trial import not_followed
from spectrim.zoo.densenet import densenet40
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.resnet_cifar import resnet56
from spectrim.zoo.vgg import vgg16_bn
from tests.surgery.cutting import assert_equal_to_the_silenced, half, settled


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip that is concatenated."""

    def __init__(self):
        super().__init__()
        self.inc = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2)
        self.mix = nn.Conv2d(20, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.inc(x)
        y = F.relu(self.up(F.relu(self.down(x))))
        return self.out(F.relu(self.mix(torch.cat([y, x], 1))))


# network, image side, how many groups of channels are cut, share of the parameters that stays
NETWORKS = {
    "resnet56": (resnet56, 32, 31, 0.27),
    "vgg16_bn": (vgg16_bn, 32, 14, 0.27),
    "googlenet": (googlenet, 32, 64, 0.28),
    "densenet40": (densenet40, 32, 39, 0.27),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 32, 12, 0.27),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), 32, 37, 0.27),
    "resnext50": (lambda: torchvision.models.resnext50_32x4d(num_classes=10), 32, 21, 0.27),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 32, 25, 0.26),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=10), 32, 40, 0.27),
    "convnext_atto": (lambda: timm.create_model("convnext_atto", num_classes=10), 32, 12, 0.56),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), 32, 24, 0.57),
    "unet": (UNet, 32, 4, 0.27),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_is_the_whole_one_with_the_removed_channels_silenced(name):
    make, side, count, share = NETWORKS[name]
    torch.manual_seed(1)
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    model = settled(make(), x)
    before = sum(p.numel() for p in model.parameters())
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found, left = groups(model, [x[:1]])
    edits = half(model, found)
    assert not_followed(model, edits, [x[:2]]) == {}
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    after = assert_equal_to_the_silenced(model, edits, x)
    assert len(edits) == count
    assert after / before == pytest.approx(share, abs=0.03)
    assert all(each.reason for each in left)
    writers = {path for group in found for path in group.writers} | {each.path for each in left}
    layers = {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert layers <= writers
