"""Factored layers compute what the decoded layer computes."""

import copy

import pytest
import torch
from torch import nn

from spectrim import FrequencyRegularization, anneal_, compress_
from spectrim.nn import FactoredConv, FactoredLinear
from spectrim.surgery import coded

LAYERS = {
    "linear": (lambda: nn.Linear(48, 40), (3, 5, 48)),
    "conv": (lambda: nn.Conv2d(32, 48, 3, padding=1), (2, 32, 9, 8)),
    "strided, dilated, no bias": (lambda: nn.Conv2d(32, 48, 3, 2, 2, 2, bias=False), (2, 32, 11, 12)),
    "same padding": (lambda: nn.Conv2d(32, 32, 5, padding="same"), (2, 32, 9, 8)),
    "pointwise": (lambda: nn.Conv2d(64, 64, 1), (2, 64, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(32, 32, 3), (2, 32, 9)),
    "conv3d": (lambda: nn.Conv3d(16, 32, 3), (1, 16, 5, 6, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(48, 32, 4, 2, 1), (2, 48, 5, 6)),
    "transposed, padded": (lambda: nn.ConvTranspose1d(48, 32, 3, 2, 1, output_padding=1), (2, 48, 5)),
}


@pytest.mark.parametrize(("build", "size"), LAYERS.values(), ids=LAYERS)
def test_the_factored_layer_computes_the_same(build, size):
    model = nn.Sequential(build()).double()
    compress_(model, FrequencyRegularization(keep=1e-6, floor=40))
    anneal_(model, 1.0)
    (entry,) = coded(model)
    other = entry.codec.alternative(entry.module, entry.code)
    x = torch.randn(size, dtype=torch.float64)
    # bases are kept in single precision, so agreement is to its rounding
    torch.testing.assert_close(other(x), model(x), atol=1e-5, rtol=1e-5)
    rebuilt = type(other).from_spec(other.spec()).double()
    rebuilt.load_state_dict(other.state_dict())
    torch.testing.assert_close(rebuilt(x), other(x), atol=1e-6, rtol=1e-6)
    assert sum(p.numel() for p in other.parameters()) < sum(p.numel() for p in nn.Sequential(build()).parameters())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        type("OwnForward", (nn.Conv2d,), {"forward": lambda self, x: 2 * nn.Conv2d.forward(self, x)})(32, 32, 3),
        nn.Bilinear(4, 4, 4),
    ],
    ids=["grouped", "reflect", "own forward", "bilinear"],
)
def test_a_layer_that_is_not_understood_has_no_factored_form(layer):
    model = nn.Sequential(layer)
    compress_(model, FrequencyRegularization(keep=1e-6, floor=10, schedule="at-once"))
    (entry,) = coded(model)
    assert entry.codec.alternative(entry.module, entry.code) is None


def test_no_factored_form_where_it_would_multiply_more():
    model = compress_(nn.Sequential(nn.Linear(20, 20)), FrequencyRegularization(keep=1.0))
    (entry,) = coded(model)
    assert entry.codec.alternative(entry.module, entry.code) is None


@pytest.mark.parametrize("cls", [FactoredLinear, FactoredConv])
@pytest.mark.parametrize(
    "change",
    [
        {"in": 0},
        {"padding": "evil"},
        {"stride": [0, -1]},
        {"core": [1]},
        {"core": "x"},
        {"bias": 1},
        {"norm": "l2"},
        {"extra": 1},
        {"stride": [1.5, 1]},
    ],
    ids=str,
)
def test_a_spec_from_a_stranger_is_checked(cls, change):
    good = {"in": 4, "out": 4, "core": [2, 2], "bias": True, "norm": "ortho"}
    if cls is FactoredConv:
        good |= {"core": [2, 2, 3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
    cls.from_spec(copy.deepcopy(good))
    with pytest.raises(ValueError, match=r"."):
        cls.from_spec(good | change)
