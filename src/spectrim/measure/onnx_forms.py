"""How long modules take in onnxruntime, each between the neighbours that such a layer has: many small graphs from one export."""

import importlib.util
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.errors import UnsupportedError, first_line

_FILL_S = 0.002


class _Sides(nn.Module):
    """Modules side by side, each with an input of its own."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [module(x) for module, x in zip(self.each, inputs, strict=True)]


class _Laid(nn.Module):
    """The dimensions of a map in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


def between(layer: nn.Module, channels: tuple[int | None, int | None], *, last: bool = False) -> nn.Module:
    """A layer with an activation and a depthwise convolution on either side, as in a bottleneck.

    A runtime lays maps out as convolutions like them. What a layer costs that wants them otherwise shows only beside convolutions.

    Args:
        layer: Reads and writes maps on the sides that are asked for.
        channels: That it reads and writes; None for a side with nothing on it.
        last: Whether it reads and writes maps with the channels last; what stands beside it does not.
    """

    def depthwise(count: int) -> nn.Module:
        conv: nn.Module = nn.utils.skip_init(nn.Conv2d, count, count, 3, padding=1, groups=count)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        for parameter in conv.parameters():
            nn.init.ones_(parameter)
        return conv

    before, after = channels
    chain = [] if before is None else [depthwise(before), nn.ReLU6()]
    chain += [_Laid(0, 2, 3, 1), layer, _Laid(0, 3, 1, 2)] if last else [layer]
    chain += [] if after is None else [nn.ReLU6(), depthwise(after)]
    return nn.Sequential(*chain)


def onnx_times(modules: Sequence[nn.Module], inputs: Sequence[Tensor], *, rounds: int = 15) -> list[float]:
    """Milliseconds that each module takes on its input in onnxruntime, on one thread: minima over rounds in which they take turns.

    For layers: the sessions of large models in one process disturb each other, see :mod:`spectrim.measure.sessions`.

    Args:
        modules: In evaluation mode; moved to the processor.
        inputs: One for each.
        rounds: How many figures to take of each; a figure averages as many calls as fill two milliseconds.

    Raises:
        UnsupportedError: A library is missing, or torch cannot export one of them.
    """
    graphs = onnx_graphs(modules, inputs)
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    runs = [
        (InferenceSession(graph, options, providers=["CPUExecutionProvider"]), {f"x{number}": x.detach().cpu().numpy()})
        for number, (graph, x) in enumerate(zip(graphs, inputs, strict=True))
    ]
    return _minima(runs, rounds)


def onnx_graphs(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[bytes]:
    """An ONNX file for each module, from ``x0`` to ``y0``, ``x1`` to ``y1`` and so on; all from one export.

    Args:
        modules: In evaluation mode; moved to the processor.
        inputs: One for each.

    Raises:
        UnsupportedError: A library is missing, or torch cannot export one of them.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"measuring in onnxruntime needs {', '.join(missing)}, which is not installed. Run: pip install 'spectrim[onnx]'"
        )
    from onnx.utils import Extractor

    arguments = tuple(x.detach().cpu().contiguous() for x in inputs)
    names = [f"x{number}" for number in range(len(modules))]
    outs = [f"y{number}" for number in range(len(modules))]
    with quiet():
        try:
            program = torch.onnx.export(
                _Sides([module.cpu() for module in modules]).eval(),
                arguments,
                dynamo=True,
                external_data=False,
                optimize=False,  # the runtime does that, and faster
                verbose=False,
                input_names=names,
                output_names=outs,
            )
        except Exception as error:
            reason = first_line(error)
            raise UnsupportedError(f"torch cannot export what was to be measured in onnxruntime: {reason}") from error
    assert program is not None  # noqa: S101  # with dynamo=True there is one
    extractor = Extractor(program.model_proto)
    return [extractor.extract_model([name], [out]).SerializeToString() for name, out in zip(names, outs, strict=True)]


def _minima(runs: Sequence[tuple[Any, dict[str, Any]]], rounds: int) -> list[float]:
    once = [min(_seconds(session, feed, 1) for _ in range(3)) for session, feed in runs]
    repeats = [max(1, round(_FILL_S / max(took, 1e-7))) for took in once]
    best = [float("inf")] * len(runs)
    for _ in range(rounds):
        for number, (session, feed) in enumerate(runs):
            best[number] = min(best[number], _seconds(session, feed, repeats[number]) * 1000)
    return best


def _seconds(session: Any, feed: dict[str, Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        session.run(None, feed)
    return (time.perf_counter() - start) / repeats


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
