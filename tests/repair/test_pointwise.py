"""Pointwise convolutions that see low frequencies alone, fitted anew to what they wrote before."""

import copy

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.nn import BandedPointwiseConv2d


class Net(nn.Module):
    """Wider behind, wider before, with a stride, and a map that no block divides."""

    def __init__(self, size):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.expand = nn.Conv2d(16, 32, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.project = nn.Conv2d(32, 16, 1)
        self.down = nn.Conv2d(16, 8, 1, stride=2)
        self.fc = nn.Linear(8 * ((size + 1) // 2) ** 2, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.project(torch.relu(self.norm(self.expand(x)))))
        return self.fc(torch.relu(self.down(x)).flatten(1))


@pytest.fixture(params=[8, 11])
def case(request):
    """A network, the plan of its cut, and images."""
    torch.manual_seed(0)
    size = request.param
    x = torch.randn(160, 3, size, size, generator=torch.Generator().manual_seed(1))
    model = Net(size).train()
    model(x)
    method = st.PointwisePruning(keep=0.4, pays="always", block=4)
    return model.eval(), st.plan(model, method, calibration=x[:32]), x


def test_a_repair_brings_the_output_back_towards_the_original(case):
    model, plan, x = case
    assert [edit.path for edit in plan.edits] == ["expand", "project", "down"]
    cut = plan.apply_(copy.deepcopy(model))
    with torch.no_grad():
        wanted, before = model(x[128:]), cut(x[128:])
        report = st.repair_(cut, model, plan=plan, calibration=x[:128])
        after = cut(x[128:])
    assert (after - wanted).square().mean() < 0.8 * (before - wanted).square().mean()
    assert {row.path for row in report.refitted} >= {"project", "down"}
    assert not any("batches" in row.reason for row in report.left)
    assert report.norms == 1
    assert not any(module.inverse_first for module in cut.modules() if isinstance(module, BandedPointwiseConv2d))


def test_the_finalized_network_computes_what_was_repaired(case):
    model, plan, x = case
    cut = plan.apply_(copy.deepcopy(model))
    st.repair_(cut, model, plan=plan, calibration=x)
    with torch.no_grad():
        wanted = cut(x[:4])
        torch.testing.assert_close(st.finalize_(cut)(x[:4]), wanted, rtol=1e-4, atol=1e-4)


def test_where_the_inverse_stands_makes_no_difference(case):
    model, plan, x = case
    cut = plan.apply_(copy.deepcopy(model))
    with torch.no_grad():
        wanted = cut(x[:4])
        for module in cut.modules():
            if isinstance(module, BandedPointwiseConv2d):
                module.inverse_first = True
        torch.testing.assert_close(cut(x[:4]), wanted, rtol=1e-4, atol=1e-5)


def test_what_nothing_is_cut_of_stays_as_it_is(case):
    model, _, x = case
    plan = st.plan(model, st.PointwisePruning(keep=1.0, pays="always", block=4), calibration=x)
    cut = plan.apply_(copy.deepcopy(model))
    report = st.repair_(cut, model, plan=plan, calibration=x)
    assert not report.refitted
    assert {row.reason for row in report.left} == {"reads what it read before"}
