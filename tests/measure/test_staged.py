"""What two stages would multiply, whichever form is taken."""

import torch
from torch import nn

import spectrim as st
from spectrim.measure import macs
from spectrim.measure.staged import macs_in_two_stages


def test_two_stages_are_counted_as_a_target_counts_them():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, stride=2), nn.Conv2d(32, 32, 3), nn.Flatten()
    ).eval()
    x = torch.rand(1, 3, 16, 16)
    dense = macs(model, x)
    assert macs_in_two_stages(model, x) is None
    plan = st.plan(model, st.ReconstructedFilters(target="macs:0.7"), calibration=x)
    plan.apply_(model)
    assert macs_in_two_stages(model, x) == dense
    st.anneal_(model, 1.0)
    assert macs_in_two_stages(model, x) == plan.budget.left < 0.7 * dense
