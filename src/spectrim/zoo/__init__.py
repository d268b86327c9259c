"""The papers' architectures that no model library carries, by name; importing this loads none of them."""

from collections.abc import Mapping
from types import MappingProxyType

ZOO: Mapping[str, str] = MappingProxyType(
    {
        "lenet5": "spectrim.zoo.lenet:lenet5",
        "resnet20": "spectrim.zoo.resnet_cifar:resnet20",
        "resnet56": "spectrim.zoo.resnet_cifar:resnet56",
        "resnet18": "spectrim.zoo.resnet18:resnet18",
        "vgg19": "spectrim.zoo.vgg:vgg19",
        "vit": "spectrim.zoo.vit:vit",
        "unet": "spectrim.zoo.unet:unet",
    }
)
"""Networks that the shell trains: name to ``module:function``. (The DCGAN pair has no labels to train on here.)"""
