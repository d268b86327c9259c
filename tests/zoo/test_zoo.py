"""The networks have the layers that the papers count, and run."""

import importlib
import math
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spectrim.zoo import ZOO
from spectrim.zoo.dcgan import discriminator, generator
from spectrim.zoo.densenet import densenet40
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.lenet import lenet5
from spectrim.zoo.resnet18 import resnet18
from spectrim.zoo.resnet_cifar import Block, ResNetCIFAR, resnet20, resnet56, resnet110
from spectrim.zoo.unet import unet
from spectrim.zoo.vgg import vgg16_bn, vgg19
from spectrim.zoo.vit import vit


def layer_counts(model: nn.Module) -> list[int]:
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [module.weight.numel() for module in model.modules() if isinstance(module, kinds)]


def on_meta(make):
    with torch.device("meta"):
        return make()


def test_lenet5_has_the_papers_429168_weights():
    assert layer_counts(lenet5()) == [200, 25_600, 401_408, 1_960]


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 7), (1, 16, 2)])
def test_lenet5_adapts_to_the_data(channels, size, classes):
    model = lenet5(in_channels=channels, image_size=size, num_classes=classes)
    assert model(torch.randn(2, channels, size, size)).shape == (2, classes)


def test_lenet5_names_the_smallest_image():
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 8x8"):
        lenet5(image_size=8)


def test_vgg_has_the_counts_of_the_supplement():
    expected = [1_728, 36_864, 73_728, 147_456, 294_912, *[589_824] * 3, 1_179_648, *[2_359_296] * 7, 5_120]
    assert layer_counts(on_meta(vgg19)) == expected


def test_resnet18_has_the_counts_of_the_supplement():
    counts = Counter(layer_counts(on_meta(resnet18)))
    assert counts == {
        1_728: 1, 36_864: 4, 73_728: 1, 147_456: 3, 8_192: 1, 294_912: 1, 589_824: 3, 32_768: 1,
        1_179_648: 1, 2_359_296: 3, 131_072: 1, 5_120: 1,
    }  # fmt: skip
    assert sum(n * times for n, times in counts.items()) - 1_728 == 11_162_624


def test_vit_has_the_counts_of_the_supplement():
    model = on_meta(vit)
    blocks = [786_432, 262_144, 262_144, 262_144] * 6
    assert layer_counts(model) == [24_576, *blocks, 5_120]
    assert (model.position.numel(), model.class_token.numel()) == (33_280, 512)


def test_the_dcgan_pair_has_the_counts_of_the_supplement():
    assert layer_counts(on_meta(generator)) == [819_200, 2_097_152, 524_288, 131_072, 1_024]
    assert layer_counts(on_meta(discriminator)) == [1_024, 131_072, 524_288, 2_097_152, 8_192]


def test_the_dcgan_pair_runs():
    images = generator(width=4)(torch.randn(2, 100, 1, 1))
    assert images.shape == (2, 1, 64, 64)
    assert discriminator(width=4)(images).shape == (2,)


def test_unet_is_23_tensors_of_31024960_weights_and_nothing_else():
    model = on_meta(unet)
    assert len(list(model.parameters())) == len(model.state_dict()) == 23
    assert sum(math.prod(p.shape) for p in model.parameters()) == 31_024_960


@pytest.mark.parametrize("side", [16, 37])
def test_unet_labels_every_pixel(side):
    model = unet(width=4, affine=True).eval()
    assert model(torch.randn(1, 3, side, side)).shape == (1, 2, side, side)


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (resnet20, 269_722),
        (resnet56, 853_018),
        (resnet110, 1_727_962),
        (vgg16_bn, 14_991_946),
        (googlenet, 6_166_250),
        (densenet40, 1_059_298),
    ],
)
def test_the_networks_of_the_pruning_papers_have_the_published_size(make, parameters):
    assert sum(p.numel() for p in make().parameters()) == parameters


def test_a_cifar_resnet_of_another_depth_is_refused():
    with pytest.raises(ValueError, match="6n\\+2"):
        ResNetCIFAR(18)


@pytest.mark.skipif("SPECTRIM_DATA" not in os.environ, reason="needs the files of SPECTRIM_DATA")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_the_pretrained_files_fit(name):
    weights = load_file(Path(os.environ["SPECTRIM_DATA"]) / "weights" / f"cifar10-{name}.safetensors")
    make = {"resnet20": resnet20, "resnet56": resnet56}[name]
    make().load_state_dict(weights)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("inside", "outside"), [(4, 4), (4, 8), (3, 6)])
def test_the_map_of_channels_is_option_as_padded_shortcut(inside, outside, stride):
    x, block = torch.randn(2, inside, 8, 8), Block(inside, outside, stride)
    front = (outside - inside) // 2
    padded = torch.nn.functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, front, outside - inside - front))
    assert torch.equal(block.shortcut(x[:, :, ::stride, ::stride]), padded)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_name_leads_to_a_network_that_runs(name):
    module, function = ZOO[name].split(":")
    model = on_meta(getattr(importlib.import_module(module), function))
    channels = next(p for p in model.parameters() if p.ndim == 4).shape[1] if name != "vit" else 3
    side = 28 if name == "lenet5" else 32
    assert model(torch.randn(2, channels, side, side, device="meta")).shape[0] == 2
