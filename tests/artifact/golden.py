"""The model whose artifact is committed, made of numbers that no library computes."""

import torch
from torch import nn

from spectrim.nn.channel_map import ChannelMap
from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.factored import FactoredLinear
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.nn.reconstructed import TemplateConv
from spectrim.surgery.edits import ParametrizeTensor, replace_module_
from spectrim.surgery.plan import Plan
from spectrim.surgery.sites import coded

PROVENANCE = {"note": "nothing reads this", "seed": 0}


class Golden(nn.Module):
    """Every feature of the format in a few hundred bytes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 2, bias=False)
        self.narrow = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(5, 2)
        self.tail = nn.Linear(5, 2, bias=False)
        self.tail.weight = self.head.weight
        self.tail2 = nn.Linear(4, 2, bias=False)
        self.register_buffer("large", torch.zeros(2))
        self.register_buffer("brain", torch.zeros(2, dtype=torch.bfloat16))
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))


def architecture():
    return Golden().eval()


def ramp_(tensor, step=0.25):
    """Fill with multiples of a quarter, which float16 holds exactly, of either sign."""
    values = torch.arange(tensor.numel(), dtype=torch.float64)
    tensor.copy_(((values % 7 - 3) * step + values % 5 * step / 4).reshape(tensor.shape))


@torch.no_grad()
def golden():
    model = architecture()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            ramp_(tensor)
    model.norm.running_var.copy_(torch.tensor([0.25, 1.0, 2.0, 4.0]))
    model.norm.num_batches_tracked.fill_(12)
    model.large.copy_(torch.tensor([1.0, 131072.0]))
    model.flags.copy_(torch.tensor([True, False, True]))
    narrow = FactoredLinear.from_spec({"in": 6, "out": 6, "core": [1, 2], "bias": False, "norm": "ortho"}).eval()
    ramp_(narrow.core)
    replace_module_(model, model.get_submodule("narrow"), narrow)
    edits = (
        ParametrizeTensor("conv", "weight", "spectral", {"shape": [4, 3, 3, 3], "kept": 11}),
        ParametrizeTensor("up", "weight", "spectral", {"shape": [4, 2, 2, 2], "kept": 7, "order": "linf"}),
        ParametrizeTensor("tail2", "weight", "spectral", {"shape": [2, 4], "kept": 3, "norm": "backward"}),
    )
    Plan(method="golden", model="Golden", edits=edits).apply_(model)
    for each in coded(model):
        ramp_(each.code)
    return model.eval()


class Maps(nn.Module):
    """Layers that hold whole numbers, which lay in memory in 16 bits when the file was made and are wider now."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.point = nn.Conv2d(6, 4, 1)
        self.skip = ChannelMap.padded(4, 7)

    def forward(self, x):
        return self.skip(self.point(self.conv(x)))


def maps():
    return Maps().eval()


@torch.no_grad()
def golden_maps():
    model = maps()
    conv = TemplateConv(ConvSizes.of(model.conv), family="matrix", templates=4)
    conv.template.copy_(torch.tensor([0, 1, 2, 3, 3, 1]))
    point = BandedPointwiseConv2d(6, 4, (4, 4), kept=[1, 3, 16, 6, 2, 10])
    model.skip.source.copy_(torch.tensor([3, -1, 0, 1, 2, -1, 3]))
    replace_module_(model, model.conv, conv)
    replace_module_(model, model.point, point)
    for parameter in model.parameters():
        ramp_(parameter)
    return model.eval()
