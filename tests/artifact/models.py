"""Small models with everything in them that a file has to tell apart."""

import copy
import hashlib

import torch
from torch import nn

from spectrim.surgery.edits import ParametrizeTensor
from spectrim.surgery.plan import Plan


class Tiny(nn.Module):
    """Convolutions, a grouped and a transposed one, norms, biases, buffers of three dtypes, tied weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(8, affine=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)
        self.tail = nn.Linear(5, 4, bias=False)
        self.back = nn.Linear(5, 4, bias=False)
        self.back.weight = self.tail.weight
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("seen", torch.tensor([True, False, True]))
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.up(self.bn2(self.conv2(x))).mean((2, 3))
        return self.back(self.tail(self.head(x)).relu() @ self.tail.weight)


def fresh():
    torch.manual_seed(7)
    return Tiny().eval()


def trained():
    """With running statistics that are not the initial ones."""
    torch.manual_seed(3)
    model = Tiny()
    with torch.no_grad():
        nn.init.uniform_(model.bn1.weight, 0.5, 2.0)
        nn.init.uniform_(model.bn1.bias, -1.0, 1.0)
        for _ in range(3):
            model(torch.randn(4, 3, 8, 8) * 2 + 1)
    model.steps += 4
    return model.eval()


KEPT = {"conv1.weight": 20, "conv2.weight": 33, "up.weight": 9, "head.weight": 20}


def code_(model, kept=KEPT):
    """Code some weights with a given count, as a method would."""
    edits = []
    for site, count in kept.items():
        path, _, tensor = site.rpartition(".")
        shape = list(model.get_parameter(site).shape)
        edits.append(ParametrizeTensor(path, tensor, "spectral", {"shape": shape, "kept": count}))
    return Plan(method="test", model=type(model).__name__, edits=tuple(edits)).apply_(model).eval()


def compressed(kept=KEPT):
    return code_(trained(), kept)


def fingerprint(model):
    """A hash of everything that a model is: classes, names, flags, bits."""
    sha = hashlib.sha256()
    for name, module in model.named_modules():
        sha.update(f"{name} {type(module).__name__} {module.training}".encode())
    for name, tensor in copy.deepcopy(model).state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
