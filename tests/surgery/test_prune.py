"""The edit that removes channels: exact, undone to the bit, through JSON, and refused where it does not fit."""

import copy
import json

import pytest
import torch
from torch import nn

from spectrim import FrequencyRegularization, OrderError, Plan, PlanError, compress_
from spectrim.nn.channel_map import ChannelMap
from spectrim.surgery import PruneChannels
from spectrim.surgery.channels import groups
from spectrim.surgery.layers import rule_of
from spectrim.zoo.resnet_cifar import resnet20
from tests.surgery.cutting import half, one_cut, small


def test_what_survives_is_copied_exactly():
    model = small()
    before = copy.deepcopy(model)
    Plan("test", "", (one_cut(model, [0, 5]),)).apply_(model)
    stays = [1, 2, 3, 4, 6, 7]
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.running_var", 0), ("3.weight", 1)):
        assert torch.equal(model.state_dict()[name], before.state_dict()[name].index_select(dim, torch.tensor(stays)))
    assert (model[0].out_channels, model[1].num_features, model[3].in_channels) == (6, 6, 6)
    assert torch.equal(model[3].bias, before[3].bias)
    assert repr(model[0]).startswith("Conv2d(3, 6,")


def test_a_cut_is_undone_to_the_bit():
    model = small()
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    tensors = {name: (t, t.data_ptr(), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    grads = [p.grad for p in model.parameters()]
    undo = one_cut(model).prepare(model)()
    assert model[0].weight.shape[0] == 6
    undo()
    for name, tensor in model.state_dict(keep_vars=True).items():
        same, place, value = tensors[name]
        assert tensor is same
        assert tensor.data_ptr() == place
        assert torch.equal(tensor, value)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert (model[0].out_channels, model[1].num_features, model[3].in_channels) == (8, 8, 8)


def test_a_plan_of_cuts_survives_json():
    model = resnet20()
    found, _ = groups(model, [torch.zeros(1, 3, 32, 32)])
    plan = Plan("test", "", half(model, found))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    x = torch.randn(1, 3, 32, 32)
    one, other = plan.apply_(copy.deepcopy(model)).eval(), again.apply_(copy.deepcopy(model)).eval()
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("cuts", ["x", [[[0], [["0.weight", "0", [8]]]]], [[[-1], []]], [[[0]]], 3])
def test_a_malformed_cut_is_refused(cuts):
    text = Plan("test", "", (one_cut(small()),)).to_json()
    document = json.loads(text)
    document["edits"][0]["cuts"] = cuts
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.__setitem__(3, nn.Conv2d(9, 4, 1)),
            r"planned for '3\.weight' of shape \(4, 8, 1, 1\), found \(4, 9,",
        ),
        (lambda m: m.__setitem__(1, nn.Identity()), r"'1\.weight', found it in a Identity, which is not cut"),
        (lambda m: m.__delitem__(3), r"planned for '3', which Sequential does not have"),
        (lambda m: m[0].register_parameter("bias", None), r"'0\.bias', found no such plain tensor"),
        (lambda m: nn.utils.parametrizations.weight_norm(m[3]), r"'3\.weight', found no such plain tensor"),
    ],
)
def test_a_cut_planned_for_another_model_changes_nothing(change, message):
    edit, model = one_cut(small()), small()
    change(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PlanError, match=message):
        Plan("test", "", (edit,)).apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_is_cut_away_whole():
    model = small()
    edit = one_cut(model, range(8))
    with pytest.raises(PlanError, match=r"what is left is no Conv2d"):
        edit.prepare(model)


def test_a_coded_model_is_not_cut():
    model = small()
    edit = one_cut(model)
    compress_(model, FrequencyRegularization(keep=0.5), where="3")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(OrderError, match=r"1 tensors are already coded \(first: '3\.weight', spectral\)\. Cut first"):
        Plan("test", "", (edit,)).apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_channel_map_is_cut_on_both_sides():
    layer = ChannelMap.padded(4, 6)
    rule = rule_of(layer)
    assert layer.source.tolist() == [-1, 0, 1, 2, 3, -1]
    read = rule.cut(layer.source, 1, [1])
    assert read.tolist() == [-1, 0, -1, 1, 2, -1]
    assert rule.cut(read, 0, [0, 3]).tolist() == [0, -1, 2, -1]
    assert rule.silenced(layer.source, 1, [1]).tolist() == [-1, 0, -1, 2, 3, -1]


def test_the_edit_prints_what_stays():
    assert str(Plan("m", "n", (one_cut(small()),))).splitlines()[1].split() == ["0", "keep", "6", "of", "8", "channels"]
    assert isinstance(one_cut(small()), PruneChannels)
