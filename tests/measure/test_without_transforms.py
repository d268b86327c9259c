"""Multiplications with weights alone, of networks whose pointwise layers have bands."""

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.measure import macs, settling
from spectrim.measure.without_transforms import macs_without_transforms
from tests.surgery.test_chaining import Bottlenecks, clock


def pruned(model, where=None, **settings):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = st.PointwisePruning(keep=0.4, pays="always", score="energy", **settings)
    plan = st.plan(model.eval(), method, where=where, calibration=x)
    dense = macs(model, x[:1])
    return plan.apply_(model), plan, dense, x


@pytest.mark.parametrize("finalized", [False, True])
def test_it_is_what_the_plan_says_for_each_image(finalized):
    model, plan, dense, x = pruned(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 1, 2), nn.ReLU(), nn.Conv2d(24, 8, 1))
    )
    if finalized:
        st.finalize_(model)
    costs = [edit.spec["macs"] for edit in plan.edits]
    assert len(costs) == 2
    left = dense - sum(whole - kept for whole, kept, _ in costs)
    assert macs_without_transforms(model, x[:1]) == left
    assert macs_without_transforms(model, x) == 2 * left
    assert macs(model, x[:1]) == left + sum(transforms for _, _, transforms in costs)


def test_linear_layers_on_maps_are_counted_alike():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 16, 3), nn.Linear(16, 24)

        def forward(self, x):
            return self.mix(self.stem(x).relu().permute(0, 2, 3, 1))

    model, plan, dense, x = pruned(Last())
    whole, kept, _ = plan.edits[0].spec["macs"]
    assert macs_without_transforms(st.finalize_(model), x) == 2 * (dense - whole + kept)


def test_a_stream_that_stays_a_spectrum_multiplies_no_more(monkeypatch):
    monkeypatch.setattr(settling, "fastest", clock("chained"))
    found = []
    for example in (None, True):
        model, _, _, x = pruned(Bottlenecks(), tie="stage")
        st.finalize_(model, example=x if example else None)
        found.append(macs_without_transforms(model, x))
    assert 0 < found[1] <= found[0]


def test_without_bands_there_is_no_such_number():
    assert macs_without_transforms(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 4, 4)) is None
