"""Multiply-accumulates of a network whose rebuilt filters are computed in two stages, as a budget counts them."""

from torch import Tensor, nn

from spectrim.measure.compute import macs_report
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.template_costs import products


def macs_in_two_stages(model: nn.Module, example: Tensor) -> int | None:
    """With two stages in every layer of reconstructed filters, whichever form is the faster one.

    Args:
        model: Before it is finalized.
        example: One batch.

    Returns:
        None where there is no such layer.

    >>> macs_in_two_stages(nn.Linear(2, 2), Tensor([[0.0, 0.0]]))
    """
    layers = {path: each for path, each in components(model) if isinstance(each, TemplateConv)}
    if not layers:
        return None
    counted = macs_report(model, example)
    total = counted.total
    for path, layer in layers.items():
        sizes = layer.sizes
        whole = sizes.inside * sizes.outside * sizes.taps
        staged = products(
            sizes, sizes.outside - len(layer.pruned), groups=layer.groups, family=layer.family
        )  # the templates need no second stage
        total -= counted.by_module.get(path, 0) // whole * (whole - staged)
    return total
