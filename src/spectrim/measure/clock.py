"""How long one forward pass takes, measured so that two models can be compared.

Conventions: evaluation mode, gradients off, every figure is milliseconds per call. Models that are compared take turns
round by round in alternating order, so that a busy minute of the machine hits both; the ratio is the median of the
ratios within the rounds. The minimum is the figure closest to the machine, the median the one a user meets.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ROUND_MS = 5.0
_MOST_REPEATS = 10_000


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of one model, in milliseconds per call.

    Attributes:
        rounds_ms: One mean per round, in the order of measurement.
        repeats: Calls per round.
        threads: How many threads the operations may use.
        device: Where it ran.
    """

    rounds_ms: tuple[float, ...]
    repeats: int
    threads: int
    device: str

    @property
    def min_ms(self) -> float:
        """The fastest round."""
        return min(self.rounds_ms)

    @property
    def median_ms(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds_ms)

    def to_json(self) -> dict[str, float | int | str]:
        """Minimum, median and what they were measured with.

        >>> Latency(rounds_ms=(2.0, 1.0, 3.0), repeats=5, threads=1, device="cpu").to_json()
        {'min': 1.0, 'median': 2.0, 'rounds': 3, 'repeats': 5, 'threads': 1, 'device': 'cpu'}
        """
        return {
            "min": round(self.min_ms, 4),
            "median": round(self.median_ms, 4),
            "rounds": len(self.rounds_ms),
            "repeats": self.repeats,
            "threads": self.threads,
            "device": self.device,
        }


@dataclass(frozen=True)
class Comparison:
    """Latencies that were measured in the same rounds, by name."""

    latencies: Mapping[str, Latency]

    def __getitem__(self, name: str) -> Latency:
        return self.latencies[name]

    def speedup(self, name: str, *, over: str) -> float:
        """How many times faster ``name`` is than ``over``: the median of the ratios within the rounds.

        >>> slow = Latency(rounds_ms=(2.0, 4.0), repeats=1, threads=1, device="cpu")
        >>> fast = Latency(rounds_ms=(1.0, 2.0), repeats=1, threads=1, device="cpu")
        >>> Comparison({"dense": slow, "small": fast}).speedup("small", over="dense")
        2.0
        """
        pairs = zip(self.latencies[over].rounds_ms, self.latencies[name].rounds_ms, strict=True)
        return statistics.median(reference / own for reference, own in pairs)

    def to_json(self) -> dict[str, dict[str, float | int | str]]:
        """The latencies by name; those after the first carry their ``speedup`` over it."""
        first, *others = self.latencies
        rows = {first: self.latencies[first].to_json()}
        for name in others:
            rows[name] = {**self.latencies[name].to_json(), "speedup": round(self.speedup(name, over=first), 4)}
        return rows


def latency(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    *,
    rounds: int = 20,
    warmup: int = 3,
    threads: int | None = None,
) -> Latency:
    """Time one model alone; to compare two, use :func:`paired_latency`.

    Args:
        model: Any module, on the device of ``inputs``; its training flags are put back.
        inputs: What the forward takes.
        rounds: How many figures to take; each averages as many calls as fill five milliseconds.
        warmup: Calls before the first round.
        threads: How many threads operations may use meanwhile; as they are if None.

    Raises:
        ValueError: Fewer than one round, or negative warm-up.

    >>> latency(nn.Linear(4, 4), torch.zeros(1, 4), rounds=3).min_ms > 0
    True
    """
    return paired_latency({"model": model}, inputs, rounds=rounds, warmup=warmup, threads=threads)["model"]


def paired_latency(
    models: Mapping[str, nn.Module],
    inputs: Tensor | Sequence[Tensor],
    *,
    rounds: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Time several models in turns over the same inputs.

    Args:
        models: By the names to report; the first is the reference.
        inputs: What all of them take.
        rounds: How many figures to take of each; a figure averages as many calls as fill five milliseconds, behind one that does not count: a
            model that runs by itself finds its weights in the cache.
        warmup: Calls of each before the first round.
        threads: How many threads operations may use meanwhile; as they are if None.
        tolerance: If given, outputs must agree with those of the first model to this absolute difference.

    Raises:
        ValueError: Nothing to measure, fewer than one round, negative warm-up, or outputs that differ.

    >>> pair = paired_latency({"dense": nn.Linear(8, 8), "small": nn.Linear(8, 4)}, torch.zeros(1, 8), rounds=3)
    >>> sorted(pair.to_json())
    ['dense', 'small']
    """
    if not models or rounds < 1 or warmup < 0:
        raise ValueError(
            f"a measurement needs a model, a round and no negative warm-up, "
            f"got {len(models)} models, rounds={rounds}, warmup={warmup}."
        )
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    device = arguments[0].device if arguments else torch.device("cpu")
    with _settings(list(models.values()), threads), torch.no_grad():
        if tolerance is not None:
            _check_outputs(models, arguments, tolerance)
        repeats = {}
        for name, model in models.items():
            for _ in range(warmup):
                model(*arguments)
            once = min(_round_ms(model, arguments, 1, device) for _ in range(3))
            repeats[name] = max(1, min(_MOST_REPEATS, round(_ROUND_MS / max(once, 1e-4))))
        times: dict[str, list[float]] = {name: [] for name in models}
        order = list(models)
        for _ in range(rounds):
            for name in order:
                times[name].append(_round_ms(models[name], arguments, repeats[name], device))
            order.reverse()
        used = torch.get_num_threads()
    return Comparison(
        {
            name: Latency(rounds_ms=tuple(times[name]), repeats=repeats[name], threads=used, device=str(device))
            for name in models
        }
    )


def _round_ms(model: nn.Module, arguments: tuple[Tensor, ...], repeats: int, device: torch.device) -> float:
    model(*arguments)  # where it runs by itself it finds its weights in the cache, and here another one ran before
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        model(*arguments)
    _synchronize(device)
    return (time.perf_counter() - start) * 1000 / repeats


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _settings(models: Sequence[nn.Module], threads: int | None) -> Iterator[None]:
    """Evaluation mode and thread count for the time of a measurement."""
    training = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        with threads_set(threads):
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """So many threads for operations inside, and as many as before outside; no change if None."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _check_outputs(models: Mapping[str, nn.Module], arguments: tuple[Tensor, ...], tolerance: float) -> None:
    reference, *others = models
    expected = models[reference](*arguments)
    for name in others:
        found = models[name](*arguments)
        if not isinstance(expected, Tensor) or not isinstance(found, Tensor) or expected.shape != found.shape:
            raise ValueError(
                f"the outputs of {name!r} and {reference!r} cannot be compared: not two tensors of one shape."
            )
        difference = float((expected - found).abs().max())
        if not difference <= tolerance:
            raise ValueError(
                f"the outputs of {name!r} differ from those of {reference!r} by up to {difference:.3g}, "
                f"more than the {tolerance:.3g} asked for. Comparing their times would compare two different networks."
            )
