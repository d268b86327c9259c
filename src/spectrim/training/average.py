"""A moving average of a network's weights, which often tests better than the weights of the last step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a network's state dict.

    After step :math:`n`, :math:`\\bar w \\leftarrow d\\,\\bar w + (1 - d)\\,w` with
    :math:`d = \\min(decay, (1 + n) / (10 + n))`: the first steps forget the start sooner, so that a short phase is not ruled by
    the network as it was right after a cut.

    Buffers are averaged like parameters, the running statistics of norms too, so that they belong to the averaged
    weights; no pass over the data is needed. Whole numbers (kept counts, batches seen) are the present ones.

    torch's ``AveragedModel`` holds a second model and averages tensor by tensor in place. That fails as soon as a codec's
    bases shrink with its schedule; a state dict has them not, and loading one lets every module settle.

    Args:
        model: To follow; its present numbers are the first.
        decay: In (0, 1).

    References:
        Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> average = Average(model, 0.9)
    >>> _ = nn.init.ones_(model.weight)
    >>> average.update(model, 8)  # (1 + 8) / (10 + 8) is a half
    >>> with average.in_place_of(model):
    ...     model.weight.item()
    0.5
    >>> model.weight.item()
    1.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = _copied(model)

    @torch.no_grad()
    def update(self, model: nn.Module, number: int) -> None:
        """Take in what the ``number``-th step left, counted from 1."""
        share = 1 - min(self.decay, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, share)
            else:
                self.tensors[name].copy_(value)

    def load_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up an average that was written down."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

    def into_(self, model: nn.Module) -> None:
        """Give a network the averaged numbers."""
        model.load_state_dict(self.tensors)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Inside, the network has the averaged numbers; outside, its own again."""
        own = _copied(model)
        self.into_(model)
        try:
            yield
        finally:
            model.load_state_dict(own)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
