"""A closed-form refit of what a pruned network keeps: for plain filter pruning what fits to outputs are for rebuilt filters."""

import copy

import torch
from torch import Tensor, nn

import spectrim as st
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.repair import Repair
from spectrim.surgery.plan import Plan


def plain(model: nn.Module) -> nn.Module:
    """A copy of ordinary convolutions, in evaluation mode."""
    return st.finalize_(copy.deepcopy(model)).eval()


def due(model: nn.Module, progress: float) -> bool:
    """Whether filters are pruned on the way to ``progress``."""
    layers = [each for _, each in components(model) if isinstance(each, TemplateConv) and each.rebuilding is not None]
    return any(each.rebuilding.stage(progress) > int(each.get_buffer("stage")) for each in layers)


@torch.no_grad()
def refit_(model: nn.Module, before: nn.Module, images: Tensor) -> Repair:
    """Fit all layers in order, on what they read now, to what they wrote before the last filters were pruned.

    Pruned filters stay zero: the norms behind them hide what the fit makes of them, and it is not taken over.

    Args:
        model: Whose pruned filters and the norms behind them are zero; its weights change in place.
        before: As :func:`plain` gave it before that.
        images: Normalised.
    """
    after = plain(model)
    told = st.repair_(after, before, plan=Plan("", type(model).__name__, ()), calibration=images)
    fitted, mine = after.state_dict(), model.state_dict()
    kept = {
        f"{path}.weight": [n for n in range(each.sizes.outside) if n not in each.pruned]
        for path, each in components(model)
        if isinstance(each, TemplateConv)
    }
    for name, value in fitted.items():
        rows = kept.get(name, slice(None) if value.ndim else ())
        mine[name][rows] = value[rows]
    return told
