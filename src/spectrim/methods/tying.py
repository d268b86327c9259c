"""Bands that all readers of one residual stream share: decided by what they are worth to all of them."""

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spectrim.surgery.linearity import streams


def streams_of(model: nn.Module, image: Tensor, paths: Collection[str]) -> dict[str, str]:
    """For each of some layers that reads a residual stream together with others of them: a name of the stream.

    Args:
        model: Runs once, in evaluation mode.
        image: A batch.
        paths: Dotted names of the layers.
    """
    found: dict[str, str] = {}
    for stream in streams(model, [image]):
        readers = [path for path in stream.readers if path in paths]
        if len(readers) > 1 and not stream.others:
            # A layer that is called with several streams ties all that read one of them.
            names = {found[path] for path in readers if path in found}
            joined = [path for path, name in found.items() if name in names]
            found |= dict.fromkeys([*joined, *readers], stream.writers[0])
    return found


def together(
    rests: Mapping[str, Float[Tensor, "in frequency"]], costs: Mapping[str, float], tied: Mapping[str, str]
) -> dict[str, Tensor]:
    """The changes that cuts make, where the layers of a stream see those in all of them.

    A band is chosen by the change that it makes plus what it costs. So that all of a stream choose the same, each has its share, by
    cost, of the change in all of them.

    Args:
        rests: For each layer and channel, the change by what lies behind a band of 1, 2, ... coefficients.
        costs: Of a channel of each layer.
        tied: Names of streams.

    >>> rests = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([[1.0, 0.0]])}
    >>> together(rests, {"a": 1, "b": 3}, {"a": "stem", "b": "stem"})
    {'a': tensor([[1., 0.]]), 'b': tensor([[3., 0.]])}
    """
    changed = dict(rests)
    groups: dict[tuple[str, torch.Size], list[str]] = {}
    for path, name in tied.items():
        groups.setdefault((name, rests[path].shape), []).append(path)
    for paths in groups.values():
        total = torch.stack([rests[path] for path in paths]).sum(0)
        cost = sum(costs[path] for path in paths)
        changed |= {path: total * costs[path] / cost for path in paths}
    return changed
