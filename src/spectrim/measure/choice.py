"""Which of two modules is faster on the very input that one of them sees in a model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer


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


def faster(module: nn.Module, than: nn.Module, x: Tensor, *, margin: float = 0.05, seconds: float = 0.05) -> bool:
    """Whether ``module`` beats ``than`` on ``x`` by more than a margin: medians of interleaved timings, eval mode.

    Args:
        module, than: Called as they are, without gradients.
        x: Their input.
        margin: By which share of the time it must win.
        seconds: Least time to spend on each, three times over.
    """
    with torch.no_grad():
        timers = [
            Timer("f(x)", globals={"f": each, "x": x}, num_threads=torch.get_num_threads()) for each in (module, than)
        ]
        rounds = [[timer.blocked_autorange(min_run_time=seconds).median for timer in timers] for _ in range(3)]
    ours, theirs = (min(times) for times in zip(*rounds, strict=True))
    return bool(ours < (1 - margin) * theirs)
