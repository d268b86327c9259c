"""Cutting in rounds: where it ends, and how evenly it gets there."""

import copy

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim import CFDP
from spectrim.errors import UnsupportedError
from spectrim.measure import macs
from spectrim.zoo.resnet_cifar import ResNetCIFAR, resnet56
from spectrim.zoo.vit import ViT

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    return ResNetCIFAR(8).eval()


def shaken_(model):
    """As training would leave it: other weights, so that other channels are the lowest."""
    generator = torch.Generator().manual_seed(sum(p.numel() for p in model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def in_rounds(model, method, count):
    """The shapes after every round."""
    found = []
    for each in method.in_rounds(model, count, calibration=IMAGES):
        st.compress_(model, each, calibration=IMAGES)
        found.append(shapes(shaken_(model)))
    return found


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize(
    ("keep", "round_to"),
    [(0.5, 8), (0.5, 1), (0.3, 8), (0.7, 1), (0.07, 1), (1 / 3, 4), ({"layer1.*": 0.33, "layer2.*": 0.9}, 1)],
)
def test_rounds_end_at_the_widths_of_a_single_cut(keep, round_to, count):
    method = CFDP(keep=keep, score="l2", round_to=round_to)
    once = shapes(st.compress_(network(), method, calibration=IMAGES))
    assert in_rounds(network(), method, count)[-1] == once


def test_rounds_end_at_the_widths_of_the_paper():
    method = CFDP(keep="resnet56", score="random", round_to=1)
    once = shapes(st.compress_(resnet56().eval(), method, calibration=IMAGES))
    assert in_rounds(resnet56().eval(), method, 3)[-1] == once


def test_rounds_end_at_the_heads_of_a_single_cut():
    method = CFDP(keep=0.5, score="random")
    torch.manual_seed(0)
    model = ViT(image_size=16, dim=64, depth=2).eval()
    once = shapes(st.compress_(copy.deepcopy(model), method, calibration=IMAGES))
    assert in_rounds(model, method, 2)[-1] == once


def test_the_way_down_is_even():
    model = nn.Sequential(nn.Conv2d(3, 1000, 1), nn.ReLU(), nn.Conv2d(1000, 10, 1)).eval()
    left = [each["0.weight"][0] for each in in_rounds(model, CFDP(keep=0.125, score="l2", round_to=1), 3)]
    assert left == [500, 250, 125]


def test_a_group_that_is_narrow_already_waits_for_its_round():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 10, 1)).eval()
    left = [each["0.weight"][0] for each in in_rounds(model, CFDP(keep=0.5, score="l2"), 4)]
    assert left == [16, 8, 8, 8]  # multiples of 8; 13.5, 11.3, 9.5 and 8 were meant


def test_one_round_is_the_method_itself():
    method = CFDP(keep=0.5)
    assert method.in_rounds(network(), 1) == (method,)


def test_a_round_prints_like_a_method():
    last = CFDP(keep=0.5, score="l2").in_rounds(network(), 2, calibration=IMAGES)[-1]
    assert repr(last) == "CFDP(keep=0.5, score='l2')"
    assert last.original["conv1"] == 16


@pytest.mark.parametrize(("quantity", "count_of"), [("macs", macs), ("params", None)])
def test_a_target_is_reached_by_even_steps(quantity, count_of):
    def left(model):
        return macs(model, IMAGES[:1]) if count_of else sum(p.numel() for p in model.parameters())

    model = network()
    dense, found = left(model), []
    for method in CFDP(target=f"{quantity}:0.3", score="l2", round_to=1).in_rounds(model, 3, calibration=IMAGES):
        st.compress_(model, method, calibration=IMAGES)
        found.append(left(shaken_(model)) / dense)
    assert found == pytest.approx([0.3 ** (1 / 3), 0.3 ** (2 / 3), 0.3], abs=0.02)
    assert found[-1] <= 0.3


def test_what_stays_in_any_case_is_a_share_of_the_original():
    method = CFDP(target="params:0.2", score="l2", round_to=1, least=0.5)
    message = "below what can be reached"
    once, model = copy.deepcopy(network()), network()
    with pytest.raises(ValueError, match=message):
        st.plan(once, method, calibration=IMAGES)
    *first, last = method.in_rounds(model, 2, calibration=IMAGES)
    for each in first:
        st.compress_(model, each, calibration=IMAGES)
    with pytest.raises(ValueError, match=message):
        st.plan(model, last, calibration=IMAGES)
    assert last.original["layer1.0.conv1"] == 16


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_rounds_than_one_are_refused(count):
    with pytest.raises(ValueError, match="at least one round"):
        CFDP().in_rounds(network(), count, calibration=IMAGES)


def test_a_method_that_anneals_has_no_rounds():
    method = st.FrequencyRegularization(keep=0.1)
    assert method.in_rounds(network(), 1) == (method,)
    with pytest.raises(UnsupportedError, match="3 rounds of frequency-regularization, which reaches its target while"):
        method.in_rounds(network(), 3)
