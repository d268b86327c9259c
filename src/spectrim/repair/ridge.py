"""Least squares with a pull towards weights that are there already, in closed form."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

Rows = tuple[Float[Tensor, "row group input"], Float[Tensor, "row group output"]]
Fit = tuple[Float[Tensor, "group output input"], Float[Tensor, "group output"]]


def refit(rows: Iterable[Rows], prior: Float[Tensor, "group output input"], *, ridge: float, offset: bool) -> Fit:
    """The weights V and the offset c that minimise ``mean |y - V x - c|² + ridge m |V - prior|²``, group by group.

    m is the mean square of an input (about its mean, with an offset), so that ``ridge`` has no unit.

    Args:
        rows: What is read and what is to be written, in parts.
        prior: The weights that the pull is towards.
        ridge: Its strength.
        offset: Whether a constant is added; else c is zero.

    >>> x = torch.randn(100, 1, 3, dtype=torch.float64)
    >>> weight, shift = refit([(x, 2 * x + 1)], torch.zeros(1, 3, 3, dtype=torch.float64), ridge=1e-12, offset=True)
    >>> torch.allclose(weight[0], 2 * torch.eye(3).double()), torch.allclose(shift, torch.ones(3).double())
    (True, True)
    """
    prior = prior.double()
    gram = cross = inputs = outputs = torch.zeros((), dtype=torch.float64, device=prior.device)
    count = 0
    for x, y in rows:
        left = x.transpose(0, 1)
        gram = gram + (left.mT @ left).double()
        cross = cross + (left.mT @ y.transpose(0, 1)).double()
        inputs, outputs = inputs + x.sum(0, dtype=torch.float64), outputs + y.sum(0, dtype=torch.float64)
        count += len(x)
    gram, cross, inputs, outputs = gram / count, cross / count, inputs / count, outputs / count
    if offset:
        gram = gram - inputs[:, :, None] * inputs[:, None, :]
        cross = cross - inputs[:, :, None] * outputs[:, None, :]
    pull = _pull(ridge, gram.diagonal(dim1=1, dim2=2).mean(1))
    damped = gram + pull[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weight = prior + torch.linalg.solve(damped, cross - gram @ prior.mT).mT
    return weight, _offset(weight, inputs, outputs, offset=offset)


def refit_wide(rows: Iterable[Rows], prior: Float[Tensor, "group output input"], *, ridge: float, offset: bool) -> Fit:
    """What :func:`refit` gives, by the products between rows; for fewer rows than inputs.

    >>> x, y = torch.randn(5, 1, 20, dtype=torch.float64), torch.randn(5, 1, 2, dtype=torch.float64)
    >>> prior = torch.randn(1, 2, 20, dtype=torch.float64)
    >>> one, other = (each([(x, y)], prior, ridge=0.1, offset=True) for each in (refit, refit_wide))
    >>> torch.allclose(one[0], other[0]), torch.allclose(one[1], other[1])
    (True, True)
    """
    prior = prior.double()
    parts = list(rows)
    x, y = (torch.cat([part[each] for part in parts]).transpose(0, 1).double() for each in (0, 1))
    inputs, outputs = x.mean(1), y.mean(1)
    if offset:
        x, y = x - inputs[:, None], y - outputs[:, None]
    pull = _pull(ridge, x.square().mean((1, 2))) * x.shape[1]
    damped = x @ x.mT + pull[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = prior + torch.linalg.solve(damped, y - x @ prior.mT).mT @ x
    return weight, _offset(weight, inputs, outputs, offset=offset)


def _pull(ridge: float, square: Tensor) -> Tensor:
    """Its strength in the unit of the squares; anything positive where all inputs are zero."""
    return torch.where(square > 0, ridge * square, torch.ones_like(square))


def _offset(weight: Tensor, inputs: Tensor, outputs: Tensor, *, offset: bool) -> Tensor:
    through = outputs - (weight @ inputs[:, :, None])[:, :, 0]
    return through if offset else torch.zeros_like(through)
