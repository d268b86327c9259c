"""The papers' architectures that no model library carries, by name; importing this loads none of them."""

from collections.abc import Mapping
from types import MappingProxyType

ZOO: Mapping[str, str] = MappingProxyType(
    {
        "lenet5": "spectrim.zoo.lenet:lenet5",
        "resnet20": "spectrim.zoo.resnet_cifar:resnet20",
        "resnet56": "spectrim.zoo.resnet_cifar:resnet56",
        "resnet110": "spectrim.zoo.resnet_cifar:resnet110",
        "resnet18": "spectrim.zoo.resnet18:resnet18",
        "vgg16_bn": "spectrim.zoo.vgg:vgg16_bn",
        "vgg19": "spectrim.zoo.vgg:vgg19",
        "googlenet": "spectrim.zoo.googlenet:googlenet",
        "densenet40": "spectrim.zoo.densenet:densenet40",
        "vit": "spectrim.zoo.vit:vit",
        "unet": "spectrim.zoo.unet:unet",
    }
)
"""Networks that the shell trains: name to ``module:function``. (The DCGAN pair has no labels to train on here.)"""
