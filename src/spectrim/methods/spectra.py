"""What pointwise convolutions read, frequency by frequency: all layers in one pass over the calibration images."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spectrim.calibration import see
from spectrim.errors import DataError
from spectrim.nn.blockwise import MAX_FREQUENCIES, covered, to_blocks
from spectrim.surgery.channels import still
from spectrim.transforms.scans import block_basis, scan

Block = int | Literal["auto", "map"]
_LARGEST = 8


@dataclass
class Reading:
    """What one convolution read.

    Attributes:
        size: Height and width of its maps, behind the stride.
        block: Height and width of a block.
        energy: Mean over images and blocks of the squared coefficients of each channel, in C order of the frequencies.
        calls: How often it runs for one batch.
        reason: Why it cannot be cut; empty if it can.
    """

    size: tuple[int, int]
    block: tuple[int, int]
    energy: Float[Tensor, "in frequency"] | None = None
    calls: int = 0
    images: int = 0
    reason: str = ""


@dataclass
class _Watch:
    block: Block
    batch: int = 0
    found: dict[str, Reading] = field(default_factory=dict)

    def note(self, path: str, conv: nn.Conv2d, x: Any, y: Any) -> None:
        """Add one call of a convolution."""
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim != 4:
            self.found.setdefault(path, Reading((0, 0), (1, 1))).reason = "reads something else than maps"
            return
        size = (y.shape[-2], y.shape[-1])
        reading = self.found.setdefault(path, Reading(size, block_of(size, self.block)))
        if self.batch == 0:
            reading.calls += 1
            if type(conv) is not nn.Conv2d and not _computes_as_plain(conv, x, y):
                reading.reason = f"is a {type(conv).__name__}, which does not compute what a plain convolution does"
        if size != reading.size:
            reading.reason = f"reads maps of {_by(reading.size)} and of {_by(size)}"
        elif min(size) < 2:
            reading.reason = f"its maps are {_by(size)}"
        elif math.prod(reading.block) > MAX_FREQUENCIES:
            reading.reason = f"a block of {_by(reading.block)} has more than {MAX_FREQUENCIES} coefficients"
        if reading.reason:
            return
        x = covered(x[..., :: conv.stride[0], :: conv.stride[1]].detach().float(), reading.block)
        basis = block_basis(reading.block, range(math.prod(reading.block)), dtype=x.dtype).to(x.device)
        energy = (to_blocks(x, reading.block) @ basis.T).square().mean(2).sum(0, dtype=torch.float64).cpu()
        reading.energy = energy if reading.energy is None else reading.energy + energy
        reading.images += x.shape[0]


def block_of(size: tuple[int, int], block: Block) -> tuple[int, int]:
    """The sides of the blocks of a map.

    ``auto`` is the largest side of at most 8 that divides the map both ways, and 8 where only 1 does.

    >>> block_of((56, 56), "auto"), block_of((14, 14), "auto"), block_of((13, 13), "auto"), block_of((7, 5), "map")
    ((8, 8), (7, 7), (8, 8), (7, 5))
    """
    if block == "map":
        return size
    if block == "auto":
        common = math.gcd(*size)
        side = max((d for d in range(2, _LARGEST + 1) if common % d == 0), default=_LARGEST)
        return side, side
    return block, block


def read_spectra(
    model: nn.Module, convolutions: Mapping[str, nn.Conv2d], batches: Iterable[Tensor], block: Block
) -> dict[str, Reading]:
    """Run a model over images and look at the spectra that some pointwise convolutions of it read.

    Args:
        model: Runs in evaluation mode without gradients, and is as before.
        convolutions: By dotted name; those that are not called as layers are left out of the result.
        batches: Of images.
        block: Side of the blocks.

    Raises:
        DataError: A batch does not go through the model, or what a layer reads is not finite.
    """
    watch = _Watch(block)

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(conv: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            assert isinstance(conv, nn.Conv2d)  # noqa: S101 - it was put on no other
            watch.note(path, conv, inputs[0] if inputs else None, output)

        return note

    handles = [conv.register_forward_hook(hook(path)) for path, conv in convolutions.items()]
    try:
        with still(model), torch.no_grad():
            for number, batch in enumerate(batches):
                watch.batch = number
                see(model, batch, number)
    finally:
        for handle in handles:
            handle.remove()
    for path, reading in watch.found.items():
        if reading.energy is not None:
            if not bool(torch.isfinite(reading.energy).all()):
                raise DataError(
                    f"the features that {path!r} reads are not finite for the calibration images. Check the model's weights."
                )
            reading.energy /= reading.images
    return watch.found


def order_of(reading: Reading, order: str) -> list[int]:
    """The positions of the frequencies of a layer in the order in which they are kept; ``energy`` goes by what was read."""
    if order == "energy" and reading.energy is not None:
        total = reading.energy.sum(0)
        total[0] = torch.inf  # the mean always comes first
        return [int(position) for position in total.argsort(descending=True, stable=True)]
    named = {"radial": "radial", "square": "square"}.get(order, "zigzag")
    return scan(*reading.block, named)  # type: ignore[arg-type]  # one of three literals


def _computes_as_plain(conv: nn.Conv2d, x: Tensor, y: Tensor) -> bool:
    """Whether a subclass does on these images what its tensors say; padding of a 1x1 kernel that comes to nothing is fine."""
    own = set(dict(conv.named_parameters())) | set(dict(conv.named_buffers()))
    if not own <= {"weight", "bias"} or any(conv.children()):
        return False
    plain = nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride)
    return plain.shape == y.shape and torch.allclose(plain, y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
