"""A whole network in onnxruntime: with the forms that were chosen for its layers against the one with plain layers."""

import copy

import torch
from torch import Tensor, nn

from spectrim.measure.choice import WHOLE, Choice
from spectrim.measure.onnx_forms import onnx_times


def whole_in_onnxruntime(dense: nn.Module, model: nn.Module, example: Tensor, *, margin: float = 0.0) -> Choice | None:
    """Measure two networks in onnxruntime, on one thread.

    Args:
        dense: With plain layers.
        model: With the forms that were chosen. Both stay as they are.
        example: One batch.
        margin: By which share of the time of the dense one the other must win.

    Returns:
        ``as chosen`` or ``dense``; None where the model returns something else than one tensor.

    Raises:
        UnsupportedError: A library is missing, or torch cannot export one of them.
    """
    plain, chosen = (copy.deepcopy(each).eval() for each in (dense, model))
    with torch.no_grad():
        if not isinstance(chosen(example), Tensor):
            return None
    took = onnx_times([plain, chosen], [example, example])
    taken = "as chosen" if took[1] < (1 - margin) * took[0] else "dense"
    return Choice(WHOLE, tuple(example.shape), {"dense": took[0], "as chosen": took[1]}, taken)
