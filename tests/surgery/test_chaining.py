"""Streams stay spectra between the convolutions that write and read them, and the network computes what it did."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import spectrim as st
from spectrim.measure import settling
from spectrim.measure.choice import Choice
from spectrim.nn import Absorbed, FlatBandsConv2d
from spectrim.surgery.chaining import chains


class Bottlenecks(nn.Module):
    """Two inverted bottlenecks around a stream that a convolution starts and another one ends."""

    def __init__(self, stride=1):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 1, bias=False), self.norm(8)
        )
        self.blocks = nn.ModuleList(self.block() for _ in range(2))
        self.head = nn.Conv2d(8, 20, 1, stride=stride)
        self.fc = nn.Linear(20, 5)

    @staticmethod
    def norm(channels, *, affine=True):
        norm = nn.BatchNorm2d(channels, affine=affine)
        for tensor in (norm.running_mean, norm.running_var, *norm.parameters()):
            nn.init.uniform_(tensor, 0.5)
        return norm

    def block(self):
        return nn.Sequential(
            nn.Conv2d(8, 24, 1),
            self.norm(24),
            nn.ReLU6(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24),
            nn.ReLU6(),
            nn.Conv2d(24, 8, 1),
            self.norm(8, affine=False),
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(self.head(x).relu().mean((2, 3)))


def clock(taken):
    """One by which a form is the fastest."""
    return lambda forms, x, site: Choice(site, tuple(x.shape), {**dict.fromkeys(forms, 1.0), taken: 0.5}, taken)


def pruned(model, size=16, where=None, **settings):
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    method = st.PointwisePruning(keep=0.4, pays="always", **settings)
    st.compress_(model.eval(), method, where=where, calibration=x)
    return model.double(), x.double()


@pytest.mark.parametrize("tie", [None, "stage"])
@pytest.mark.parametrize("block", ["auto", 4, "map"])
def test_the_network_computes_what_it_did(tie, block):
    model, x = pruned(Bottlenecks(), tie=tie, block=block)
    with torch.no_grad():
        before = model(x)
        (chain,) = chains(model, x)
        back = chain.join_(model)
        torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-10)
        assert type(model.blocks[0][6]) is Absorbed
        assert type(model.blocks[0][1]) is nn.BatchNorm2d
        assert model.head.reads == "spectra"
        assert model.stem[2].writes == model.blocks[1][5].writes
        back()
        assert torch.equal(model(x), before)
    assert not any(isinstance(module, FlatBandsConv2d) for module in model.modules())


def test_all_streams_of_mobilenetv2_can_be_chained():
    model, x = pruned(torchvision.models.mobilenet_v2(), size=64, score="energy", tie="stage")
    with torch.no_grad():
        before = model(x)
        found = chains(model, x)
        for chain in found:
            chain.join_(model)
        torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-10)
    assert [len(chain.layers) for chain in found] == [2, 4, 6, 8, 6, 6, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda: pruned(Bottlenecks(), where="!head"),  # one of them reads maps
        lambda: pruned(Bottlenecks(stride=2)),
        lambda: pruned(Bottlenecks(), size=15, block=4),  # blocks do not divide the map
        lambda: pruned(Bottlenecks(), order="energy"),  # each has its own
    ],
)
def test_a_stream_is_left_as_maps_where_one_of_its_layers_wants_them(change):
    model, x = change()
    assert chains(model, x) == []


def test_a_norm_behind_a_sum_keeps_maps():
    class Behind(Bottlenecks):
        def __init__(self):
            super().__init__()
            self.last = self.norm(8)

        def forward(self, x):
            x = self.stem(x)
            x = self.last(x + self.blocks[0](x))
            return self.head(x).relu()

    model, x = pruned(Behind())
    assert chains(model, x) == []


def test_torch_takes_a_chain_only_where_the_clock_says_so(monkeypatch, tmp_path):
    for wins in (True, False):
        monkeypatch.setattr(settling, "fastest", clock("chained" if wins else "apart"))
        model, x = pruned(Bottlenecks())
        before, choices = model(x), []
        st.finalize_(model, example=x, choices=choices)
        assert (choices[0].site, choices[0].taken) == ("stem.2", "chained" if wins else "apart")
        assert list(choices[0].ms) == ["apart", "chained", "dense"]
        assert any(isinstance(module, FlatBandsConv2d) for module in model.modules()) == wins
        torch.testing.assert_close(model(x), before)


def test_a_chained_network_goes_through_a_file_and_an_export(tmp_path, monkeypatch):
    monkeypatch.setattr(settling, "fastest", clock("chained"))
    model, x = pruned(Bottlenecks())
    model, x = model.float(), x.float()
    st.finalize_(model, example=x)
    expected = model(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    into = Bottlenecks()
    for path in ("stem.3", "blocks.0.6", "blocks.1.6"):
        into.set_submodule(path, nn.Identity())
    torch.testing.assert_close(st.load_(into, tmp_path / "model.safetensors").eval()(x), expected)
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x), expected)


def test_a_file_of_a_chained_network_loads_into_its_own_architecture(tmp_path):
    model, x = pruned(Bottlenecks(), tie="stage")
    (chain,) = chains(model, x)
    chain.join_(model)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float64)
    fresh = st.load_(Bottlenecks().double().eval(), tmp_path / "model.safetensors")
    assert isinstance(fresh.blocks[0][6], Absorbed)
    torch.testing.assert_close(fresh(x), model(x))
