"""Which of two modules is faster on the very input that one of them sees in a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

WHOLE = "(the model)"
"""The site of a choice of all layers together."""
_MARGIN = 0.05
"""By which share of its time a form must lose to be called slower."""
_BLOCK = 0.001
"""Seconds of one timing."""


def inputs_of(model: nn.Module, paths: Sequence[str], example: Tensor) -> dict[str, Tensor]:
    """The first input that each of some submodules sees when the model runs on ``example`` (eval mode, no gradients).

    Args:
        model: Left in the mode it was in.
        paths: Dotted names of submodules; those that are not called, or not with a tensor, are left out.
        example: One batch.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    for path in paths:

        def remember(_: nn.Module, inputs: tuple[object, ...], path: str = path) -> None:
            if path not in seen and inputs and isinstance(inputs[0], Tensor):
                seen[path] = inputs[0].detach().clone()

        handles.append(model.get_submodule(path).register_forward_pre_hook(remember))
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return seen


@dataclass(frozen=True)
class Choice:
    """How long the forms of one layer took, and which was taken.

    Attributes:
        site: Dotted name of the layer.
        input: Shape of the input that it was measured on.
        ms: Least milliseconds of each form by its name; the first is the one to beat.
        taken: Name of the form that was taken.
        threads: How many threads operations could use; None where that was not written down.

    >>> print(Choice("layer1.conv", (1, 64, 8, 8), {"dense": 0.2, "two stages": 0.1}, "two stages"))
    layer1.conv (1 x 64 x 8 x 8): two stages; ms: dense 0.2000, two stages 0.1000
    """

    site: str
    input: tuple[int, ...]
    ms: Mapping[str, float]
    taken: str
    threads: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The attributes; times rounded to a tenth of a microsecond."""
        ms = {name: round(each, 4) for name, each in self.ms.items()}
        known = {} if self.threads is None else {"threads": self.threads}
        return {"site": self.site, "input": list(self.input), "ms": ms, "taken": self.taken, **known}

    def __str__(self) -> str:
        times = ", ".join(f"{name} {each:.4f}" for name, each in self.ms.items())
        return f"{self.site} ({' x '.join(map(str, self.input))}): {self.taken}; ms: {times}"


def slower(ms: float, than: float) -> bool:
    """Whether a form takes longer than another by more than chance.

    >>> slower(1.04, than=1.0), slower(1.1, than=1.0)
    (False, True)
    """
    return than < (1 - _MARGIN) * ms


def fastest(
    forms: Mapping[str, nn.Module], x: Tensor, *, site: str = "", margin: float = 0.05, seconds: float = 0.1
) -> Choice:
    """Which of several modules is the fastest on ``x``, by :func:`least_seconds`.

    Args:
        forms: By name; called as they are, without gradients.
        x: Their input.
        site: Name of the layer, for the answer.
        margin: By which share of the first one's time another must win.
        seconds: Time to spend on each.
    """
    ms = dict(zip(forms, (1000 * each for each in least_seconds([*forms.values()], x, seconds=seconds)), strict=True))
    first, best = next(iter(ms)), min(ms, key=lambda name: ms[name])
    taken = best if ms[best] < (1 - margin) * ms[first] else first
    return Choice(site, tuple(x.shape), ms, taken, torch.get_num_threads())


def faster(module: nn.Module, than: nn.Module, x: Tensor, *, margin: float = 0.05, seconds: float = 0.1) -> bool:
    """Whether ``module`` beats ``than`` on ``x`` by more than a margin, by :func:`least_seconds`.

    Args:
        module, than: Called as they are, without gradients.
        x: Their input.
        margin: By which share of the time it must win.
        seconds: Time to spend on each.
    """
    ours, theirs = least_seconds((module, than), x, seconds=seconds)
    return bool(ours < (1 - margin) * theirs)


def least_seconds(modules: Sequence[nn.Module], x: Tensor, *, seconds: float = 0.1) -> list[float]:
    """What one call of each module takes: minima of interleaved timings.

    The timings are short, so that on a busy machine some of each form are not interrupted; the least is the one closest to the machine.

    Args:
        modules: Called as they are, without gradients.
        x: Their input.
        seconds: Time to spend on each.

    >>> took = least_seconds([nn.Identity(), nn.Linear(64, 64)], torch.zeros(64, 64), seconds=0.01)
    >>> took[0] < took[1]
    True
    """
    with torch.no_grad():
        timers = [Timer("f(x)", globals={"f": each, "x": x}, num_threads=torch.get_num_threads()) for each in modules]
        once = [min(timer.timeit(1).mean for _ in range(3)) for timer in timers]
        numbers = [max(1, int(_BLOCK / took)) for took in once]
        rounds = max(3, round(seconds / max(_BLOCK, *once)))
        taken = [
            [timer.timeit(number).mean for timer, number in zip(timers, numbers, strict=True)] for _ in range(rounds)
        ]
    return [float(min(times)) for times in zip(*taken, strict=True)]
