"""Discrete cosine transforms of type II and their inverses, as products with constant matrices.

Names and semantics are those of :mod:`scipy.fft` (``type=2``). A product with a matrix beats an FFT at the sizes of
network layers, differentiates and compiles as ordinary matrix products, and can be cropped: the inverse transform of a
spectrum that vanishes outside its first *k* coefficients needs *k* columns of the basis only.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import scipy.fft
import torch
from jaxtyping import Float
from torch import Tensor

Norm = Literal["ortho", "backward"]
_FEW = 64
"""Frequencies up to which a product with a cropped basis is faster than a fast transform of everything (measured)."""


def forward_basis(
    n: int,
    kept: int | None = None,
    *,
    norm: Norm = "ortho",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, "kept n"]:
    """The matrix *C* with ``dct(x) == C @ x``, cropped to its first ``kept`` rows; row *u* is frequency *u*.

    ``ortho``: :math:`C_{ui} = c_u \\cos(\\pi u (2i + 1) / 2n)`, :math:`c_0 = \\sqrt{1/n}`, else :math:`\\sqrt{2/n}`.
    ``backward``: :math:`C_{ui} = 2 \\cos(\\pi u (2i + 1) / 2n)`.

    Args:
        n: Length of the signal, at least 1.
        kept: How many frequencies, from 1 to ``n``; all of them if None.
        norm: Which of scipy's normalisations.
        dtype: Of the result; the cosines are taken in float64.
        device: Of the result.

    >>> forward_basis(2)
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    kept = _checked_kept(n, kept)
    return (_cosines(n, kept).T * _analysis_scale(n, norm)[:kept, None]).to(dtype=dtype, device=device)


def inverse_basis(
    n: int,
    kept: int | None = None,
    *,
    norm: Norm = "ortho",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n kept"]:
    """The matrix *B* with ``idct(c) == B @ c``, cropped to its first ``kept`` columns (frequencies).

    Args:
        n: Length of the signal, at least 1.
        kept: How many frequencies, from 1 to ``n``; all of them if None.
        norm: Which of scipy's normalisations.
        dtype: Of the result; the cosines are taken in float64.
        device: Of the result.

    Raises:
        ValueError: ``kept`` is not in [1, n].

    >>> inverse_basis(4, 2)
    tensor([[ 0.5000,  0.6533],
            [ 0.5000,  0.2706],
            [ 0.5000, -0.2706],
            [ 0.5000, -0.6533]], dtype=torch.float64)
    """
    kept = _checked_kept(n, kept)
    return (_cosines(n, kept) * _synthesis_scale(n, norm)[:kept]).to(dtype=dtype, device=device)


def dct(x: Float[Tensor, "*shape"], axis: int = -1, norm: Norm = "ortho") -> Float[Tensor, "*shape"]:
    """DCT-II along one axis, as ``scipy.fft.dct(x, type=2, axis=axis, norm=norm)``.

    >>> dct(torch.tensor([1.0, 2.0, 3.0]))
    tensor([ 3.4641, -1.4142,  0.0000])
    """
    return dctn(x, axes=(axis,), norm=norm)


def idct(x: Float[Tensor, "*shape"], axis: int = -1, norm: Norm = "ortho") -> Float[Tensor, "*shape"]:
    """Inverse of :func:`dct` along one axis.

    >>> idct(dct(torch.tensor([1.0, 2.0, 3.0]))).round(decimals=4)
    tensor([1., 2., 3.])
    """
    return idctn(x, axes=(axis,), norm=norm)


def dctn(
    x: Float[Tensor, "*shape"], axes: Sequence[int] | None = None, norm: Norm = "ortho"
) -> Float[Tensor, "*shape"]:
    """DCT-II along several axes (all by default), as ``scipy.fft.dctn(x, type=2, axes=axes, norm=norm)``.

    Half-precision input is transformed in float32 and returned in its own dtype.
    """
    return _along(x, axes, lambda n, like: forward_basis(n, norm=norm, dtype=like.dtype, device=like.device))


def idctn(
    x: Float[Tensor, "*shape"], axes: Sequence[int] | None = None, norm: Norm = "ortho"
) -> Float[Tensor, "*shape"]:
    """Inverse of :func:`dctn`.

    >>> x = torch.arange(6.0).reshape(2, 3)
    >>> torch.allclose(idctn(dctn(x)), x, atol=1e-6)
    True
    """
    return _along(x, axes, lambda n, like: inverse_basis(n, norm=norm, dtype=like.dtype, device=like.device))


def _along(x: Tensor, axes: Sequence[int] | None, basis: Callable[[int, Tensor], Tensor]) -> Tensor:
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis in range(x.ndim) if axes is None else axes:
        y = apply_along(y, basis(y.shape[axis], y), axis)
    return y.to(x.dtype)


def leading_dctn(x: Float[Tensor, "*shape"], sides: Sequence[int], norm: Norm = "ortho") -> Float[Tensor, "*sides"]:
    """The lowest frequencies of :func:`dctn` over all axes, without gradients: to encode a tensor once.

    Nothing has to differentiate, compile or export this, so on the CPU the axes of which much is wanted take scipy's
    fast transform. In float32 or wider.

    Args:
        x: Any shape.
        sides: How many frequencies per axis.
        norm: Which of scipy's normalisations.

    >>> leading_dctn(torch.arange(6.0).reshape(2, 3), (1, 2))
    tensor([[ 6.1237, -2.0000]])
    """
    y = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    for axis, (n, side) in enumerate(zip(x.shape, sides, strict=True)):
        if y.device.type == "cpu" and side > min(_FEW, n - 1):
            whole = scipy.fft.dct(y.numpy(), axis=axis, norm=norm, workers=torch.get_num_threads())
            y = torch.from_numpy(whole).narrow(axis, 0, side)
        else:
            y = apply_along(y, forward_basis(n, side, norm=norm, dtype=y.dtype, device=y.device), axis)
    return y


def apply_along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """``matrix @ x`` along one axis of ``x``, as one two-dimensional product.

    Args:
        x: Any shape, ``x.shape[axis] == matrix.shape[1]``.
        matrix: ``(m, n)``.
        axis: Which axis of length ``n`` becomes one of length ``m``.

    >>> apply_along(torch.eye(2), torch.tensor([[1.0, 1.0]]), axis=0)
    tensor([[1., 1.]])
    """
    moved = x.movedim(axis, 0)
    product = matrix @ moved.reshape(moved.shape[0], -1)
    return product.reshape(matrix.shape[0], *moved.shape[1:]).movedim(0, axis)


def _checked_kept(n: int, kept: int | None) -> int:
    kept = n if kept is None else kept
    if not 1 <= kept <= n:
        raise ValueError(f"kept must lie in [1, {n}], got {kept}.")
    return kept


def _cosines(n: int, kept: int) -> Tensor:
    """cos(pi u (2i + 1) / 2n), rows i, columns u, float64. Phases are whole numbers, hence exact."""
    if n < 1:
        raise ValueError(f"a transform needs a length of at least 1, got {n}.")
    period = torch.cos(torch.arange(4 * n, dtype=torch.float64) * (math.pi / (2 * n)))
    whole = torch.int32 if n < 2**15 else torch.int64  # (2n - 1)(n - 1) has to fit; the narrow one divides faster
    i = torch.arange(n, dtype=whole)[:, None]
    u = torch.arange(kept, dtype=whole)[None, :]
    return period[(2 * i + 1) * u % (4 * n)]


def _analysis_scale(n: int, norm: Norm) -> Tensor:
    if norm == "backward":
        return torch.full((n,), 2.0, dtype=torch.float64)
    return _ortho_scale(n, norm)


def _synthesis_scale(n: int, norm: Norm) -> Tensor:
    if norm == "backward":
        scale = torch.full((n,), 1.0 / n, dtype=torch.float64)
        scale[0] = 0.5 / n
        return scale
    return _ortho_scale(n, norm)


def _ortho_scale(n: int, norm: Norm) -> Tensor:
    if norm != "ortho":
        raise ValueError(f"norm must be 'ortho' or 'backward', got {norm!r}.")
    scale = torch.full((n,), math.sqrt(2.0 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1.0 / n)
    return scale
