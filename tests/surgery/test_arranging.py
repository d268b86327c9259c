"""Channels are sorted for the convolutions that read them, and the network computes what it did."""

import pytest
import torch
import torchvision
from torch import nn

import spectrim as st
from spectrim.nn import BandedPointwiseConv2d, FusedDepthwise, GroupedBandsConv2d
from spectrim.surgery import arranging
from spectrim.surgery.arranging import sort_channels_


def pruned(model, size=16, channels=3, **settings):
    x = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    st.compress_(model.eval(), st.PointwisePruning(keep=0.4, pays="always", **settings), calibration=x)
    for module in model.modules():
        if isinstance(module, BandedPointwiseConv2d):  # bands that no order of the channels has by chance
            most = module.geometry.frequencies
            module.kept.copy_(
                torch.randint(1, most + 1, module.kept.shape, generator=torch.Generator().manual_seed(most))
            )
    return model, x


def in_order(model):
    return [bool((m.kept.diff() <= 0).all()) for m in model.modules() if isinstance(m, BandedPointwiseConv2d)]


class Bottlenecks(nn.Module):
    """Two inverted bottlenecks: expand, depthwise, project, with an addition."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(self.block() for _ in range(2))
        self.head = nn.Conv2d(8, 20, 1)
        self.fc = nn.Linear(20, 5)

    @staticmethod
    def block():
        norm = nn.BatchNorm2d(24)
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight)
        return nn.Sequential(
            nn.Conv2d(8, 24, 1),
            norm,
            nn.ReLU6(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24),
            nn.ReLU6(),
            nn.Conv2d(24, 8, 1),
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(self.head(x).mean((2, 3)))


def test_wide_channels_are_sorted_and_narrow_ones_for_one_of_their_readers():
    model, x = pruned(Bottlenecks())
    wide = nn.ModuleList([model.blocks[0][5], model.blocks[1][5]])
    assert in_order(wide) == [False, False]
    expected, before = model(x), sum(in_order(model))
    assert sort_channels_(model, x) >= 2
    torch.testing.assert_close(model(x), expected)
    assert in_order(wide) == [True, True]
    assert sum(in_order(model)) > before


def test_finalizing_with_an_example_sorts():
    model, x = pruned(Bottlenecks())
    expected = model(x)
    st.finalize_(model, example=x)
    torch.testing.assert_close(model(x), expected)
    projects = [block[5].project if isinstance(block[5], FusedDepthwise) else block[5] for block in model.blocks]
    assert all(isinstance(each, GroupedBandsConv2d) and each._in_order() for each in projects)


def test_mobilenet_v2_reads_sorted_channels_in_every_projection():
    torch.manual_seed(0)
    model, x = pruned(torchvision.models.mobilenet_v2(), size=64, score="energy")
    expected = model(x)
    sort_channels_(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-5)
    projects = [module for name, module in model.named_modules()
                if isinstance(module, BandedPointwiseConv2d) and module.geometry.in_channels > module.geometry.out_channels]  # fmt: skip
    assert len(projects) >= 13
    assert all(in_order(nn.ModuleList(projects)))


def test_channels_whose_place_is_fixed_stay():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.mix, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.mix(torch.relu(self.stem(x)))
            return self.out(x[:, :8] * x[:, 8:].sigmoid())

    model, x = pruned(Halves())
    expected = model(x)
    sort_channels_(model, x)
    torch.testing.assert_close(model(x), expected)


def test_what_does_not_hold_is_put_back(monkeypatch):
    model, x = pruned(Bottlenecks())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(arranging, "same", lambda *_: False)
    assert sort_channels_(model, x) == 0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


@pytest.mark.parametrize("build", [lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), lambda: nn.Sequential(nn.Linear(3, 4))])
def test_nothing_to_sort_is_no_error(build):
    model = build().eval()
    assert sort_channels_(model, torch.rand(2, 3, 8, 3)) == 0
