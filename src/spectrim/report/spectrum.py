"""Where the energy of a tensor lies in its cosine spectrum, in the order in which a method keeps coefficients.

The energy is the sum of squares; the orthonormal transform preserves it (Parseval), so the share of it in the first *k*
coefficients says how much of a tensor survives when *k* are kept and nothing is retrained.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from spectrim.transforms.ordering import Order, keys

POINTS = 48


def cumulative_energy(dense: Float[Tensor, "*shape"], *, order: Order = "l1-lex") -> Float[Tensor, "numel"]:
    """The share of the energy in the first 1, 2, …, all coefficients of a dense tensor, in float64; ends at 1.

    >>> cumulative_energy(torch.ones(2, 2))
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    plain = dense.detach().to("cpu", torch.promote_types(dense.dtype, torch.float32))
    # Here scipy's FFT wins: nothing is differentiated or cropped, and a fully-connected layer's axes are long.
    spectrum = np.asarray(scipy.fft.dctn(plain.numpy(), norm="ortho")).ravel()
    energy = np.cumsum(np.square(spectrum[_ranking(plain.shape, order)], dtype=np.float64))
    return torch.from_numpy(energy / energy[-1] if energy[-1] != 0 else np.ones_like(energy))


def coefficients_for(share: float, cumulative: Float[Tensor, "numel"]) -> int:
    """How many coefficients hold this share of the energy, at least one.

    Args:
        share: In (0, 1].
        cumulative: From :func:`cumulative_energy`.

    Raises:
        ValueError: ``share`` is out of range.

    >>> coefficients_for(0.99, cumulative_energy(torch.arange(16.0).reshape(4, 4)))
    3
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}. For 99 percent, pass share=0.99.")
    # The last entries differ from 1 by rounding only.
    reached = int(torch.searchsorted(cumulative, share * (1 - 1e-12)))
    return min(reached, len(cumulative) - 1) + 1


def log_counts(numel: int, points: int = POINTS) -> list[int]:
    """Counts from 1 to ``numel``, about equally spaced on a log axis, none twice.

    >>> log_counts(1000, 4)
    [1, 10, 100, 1000]
    """
    steps = max(points - 1, 1)
    return sorted({round(math.exp(math.log(numel) * step / steps)) for step in range(steps + 1)} | {numel})


def spectra(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    kept: Mapping[str, int],
    *,
    order: Order = "l1-lex",
    points: int = POINTS,
) -> list[dict[str, Any]]:
    """Energy curves of coded tensors before and after compression, as the page and ``result.json`` want them.

    Args:
        before, after: Dense tensors by site: of the dense baseline, and as decoded from the compressed network.
        kept: Kept count by site; these sites are reported, in this order.
        order: Of the coefficients.
        points: About so many counts for each site; the kept count is always among them.

    Returns:
        For each site ``site``, ``numel``, ``kept``, ``counts`` and the shares ``dense`` and ``compressed`` at them.

    >>> spectra({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2)}, {"w": 1}, points=2)
    [{'site': 'w', 'numel': 4, 'kept': 1, 'counts': [1, 4], 'dense': [1.0, 1.0], 'compressed': [1.0, 1.0]}]
    """
    rows: list[dict[str, Any]] = []
    for site, number in kept.items():
        numel = before[site].numel()
        counts = sorted({*log_counts(numel, points), number})
        rows.append(
            {
                "site": site,
                "numel": numel,
                "kept": number,
                "counts": counts,
                "dense": _at(counts, before[site], order),
                "compressed": _at(counts, after[site], order),
            }
        )
    return rows


def _ranking(shape: Sequence[int], order: Order) -> NDArray[np.int64]:
    """All positions in the order. By level with ties in C order, as the order is defined: a stable sort of small
    integers takes linear time, one of the keys themselves does not.
    """
    levels = (keys(shape, shape, order=order) // math.prod(shape)).flatten().numpy()
    small = np.uint16 if sum(shape) < 1 << 16 else np.int64
    return np.argsort(levels.astype(small), kind="stable")


def _at(counts: Sequence[int], dense: Tensor, order: Order) -> list[float]:
    cumulative = cumulative_energy(dense, order=order)
    return [round(float(cumulative[number - 1]), 6) for number in counts]
