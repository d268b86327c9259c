"""A whole network in onnxruntime: with the forms that were chosen for its layers against the one with plain layers."""

import copy
import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from spectrim.errors import SpectrimError
from spectrim.measure.choice import WHOLE, Choice
from spectrim.measure.onnx_forms import onnx_graphs
from spectrim.measure.sessions import session_latency
from spectrim.nn.component import Layer, components
from spectrim.surgery.edits import replace_module_

_MARGIN = 0.03
"""By which share of the plain network's time the other must win."""


def whole_in_onnxruntime(dense: nn.Module, model: nn.Module, example: Tensor) -> Choice | None:
    """Measure two networks in onnxruntime, on one thread, each in a process of its own.

    Args:
        dense: With plain layers.
        model: With the forms that were chosen. Both stay as they are; layers of either that have not got their inference form yet are measured in it.
        example: One batch.

    Returns:
        ``as chosen`` or ``dense``; None where the networks cannot be exported or run whole, or return something else than one tensor.
    """
    nets = [_runs(each) for each in (dense, model)]
    with torch.no_grad():
        if not all(isinstance(net(example), Tensor) for net in nets):
            return None
    try:
        ms = _minima(onnx_graphs(nets, [example, example]), example)
    except SpectrimError:  # whoever exports the network next is told why
        return None
    taken = "as chosen" if ms["as chosen"] < (1 - _MARGIN) * ms["dense"] else "dense"
    return Choice(WHOLE, tuple(example.shape), ms, taken)


def _runs(model: nn.Module) -> nn.Module:
    """A copy as it will run."""
    copied = copy.deepcopy(model).eval()
    for _, component in list(components(copied)):
        final = cast(Layer, component).finalized()
        if final is not component:
            replace_module_(copied, component, final)
    return copied


def _minima(graphs: list[bytes], example: Tensor) -> dict[str, float]:
    """Milliseconds of both."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(("dense", "as chosen"))}
        for file, graph in zip(files.values(), graphs, strict=True):
            file.write_bytes(graph)
        compared = session_latency(files, [example.detach().cpu().numpy()])
    return {name: min(found.rounds_ms) for name, found in compared.latencies.items()}
