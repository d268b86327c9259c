"""The element types that a file may hold: their names, sizes, and the order in which they are laid out."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spectrim.errors import UnsupportedError
from spectrim.transforms.integers import narrowest

# Wide ones first, so that every tensor starts at a multiple of its element size; this is also the order in which the
# safetensors library lays tensors out, so a file that it reads and writes again is still ours.
DTYPES: dict[str, torch.dtype] = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes by their names in safetensors, in file order."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
SIZES = {name: dtype.itemsize for name, dtype in DTYPES.items()}


def nbytes(dtype: str, shape: Sequence[int]) -> int:
    """How many bytes a tensor takes; whole numbers of any size, nothing overflows.

    >>> nbytes("F16", (33,)), nbytes("I64", ())
    (66, 8)
    """
    return math.prod(shape) * SIZES[dtype]


def name_of(tensor: Tensor, entry: str) -> str:
    """The name of a tensor's dtype.

    Raises:
        UnsupportedError: Files do not hold this dtype or layout.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in NAMES:
        raise UnsupportedError(
            f"{entry!r} is a {tensor.layout} tensor of type {tensor.dtype}; an artifact holds dense tensors of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in NAMES)}. Convert it first."
        )
    return NAMES[tensor.dtype]


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in ``dtype`` if that is narrower and loses no more than rounding does, else in float32, else as it is.

    Whole numbers, all but single ones, take 16 or 32 bits where these hold them all. "No more than rounding": no value moves by more than the spacing of ``dtype`` at the tensor's largest magnitude.
    A tensor that overflows, or whose values are all so small that they fall below the subnormal numbers, stays wide.

    Args:
        tensor: Of any dtype.
        dtype: The wanted one for floating-point numbers.

    >>> narrowed(torch.tensor([1e5]), torch.float16).dtype, narrowed(torch.tensor([0.1]), torch.float16).dtype
    (torch.float32, torch.float16)
    """
    if not tensor.is_floating_point():
        return tensor.to(narrowest(tensor))
    largest = tensor.abs().max() if tensor.numel() else torch.zeros(())
    for candidate in (dtype, torch.float32):
        if candidate.itemsize < tensor.dtype.itemsize:
            rounded = tensor.to(candidate)
            moved = (rounded.to(tensor.dtype) - tensor).abs()
            if bool((moved <= torch.finfo(candidate).eps * largest).all()):
                return rounded
    return tensor


def bytes_of(tensor: Tensor) -> bytes:
    """The elements in C order, little-endian."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def tensor_of(data: memoryview, dtype: str, shape: Sequence[int]) -> Tensor:
    """A view of bytes as a tensor; they must be writable, because torch knows no other tensors."""
    if not len(data):
        return torch.empty(tuple(shape), dtype=DTYPES[dtype])
    return torch.frombuffer(data, dtype=DTYPES[dtype]).reshape(tuple(shape))
