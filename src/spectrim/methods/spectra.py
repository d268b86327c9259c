"""What pointwise layers read, frequency by frequency, and what it is worth: all layers in one pass over the images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spectrim.calibration import at_a_time, see
from spectrim.errors import DataError, UnsupportedError
from spectrim.methods.pointwise_hosts import Pointwise, as_reads, computes_as_plain, matrix_of, plainly, size_of
from spectrim.nn.blockwise import MAX_FREQUENCIES, covered, to_blocks
from spectrim.surgery.channels import still
from spectrim.transforms.scans import block_basis, scan

Block = int | Literal["auto", "map"]
Score = Literal["output", "energy"]
Basis = tuple[tuple[int, int], torch.device, torch.dtype]
_LARGEST = 8
_CHUNK = 16
"""Images of 224 x 224 pixels at a time where gradients are wanted, which need every activation at once."""
_CHUNK_NUMBERS = _CHUNK * 3 * 224 * 224
_MOST = 256


@dataclass
class Reading:
    """What one layer read.

    Attributes:
        size: Height and width of its maps, behind the stride.
        block: Height and width of a block.
        energy: Mean over images and blocks of the squared coefficients of each channel, in C order of the frequencies.
        worth: Squared change when a coefficient is left out in all blocks: of the model's output, mean over the images, to first order; or of
            the layer's output, relative to that of leaving out all of them.
        calls: How often it runs for one batch.
        images: How many it saw, in all calls.
        reason: Why it cannot be cut; empty if it can.
        bases: The transforms of all layers, where they have been wanted.
    """

    size: tuple[int, int]
    block: tuple[int, int]
    energy: Float[Tensor, "in frequency"] | None = None
    worth: Float[Tensor, "in frequency"] | None = None
    calls: int = 0
    images: int = 0
    reason: str = ""
    bases: dict[Basis, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def spectrum(self, x: Float[Tensor, "image in height width"]) -> Float[Tensor, "image in block frequency"]:
        """The coefficients of maps."""
        return to_blocks(covered(x, self.block), self.block) @ self._basis(x).T

    def spectrum_of_gradient(self, gradient: Tensor) -> Tensor:
        """The derivatives by the coefficients, from those by the pixels; what continues a map has none."""
        below, right = (-side % step for side, step in zip(self.size, self.block, strict=True))
        return to_blocks(nn.functional.pad(gradient, (0, right, 0, below)), self.block) @ self._basis(gradient).T

    def _basis(self, like: Tensor) -> Float[Tensor, "frequency pixel"]:
        """Once for a device: every copy to it would wait for what it has still to do."""
        key = self.block, like.device, like.dtype
        if key not in self.bases:
            positions = range(math.prod(self.block))
            self.bases[key] = block_basis(self.block, positions, dtype=like.dtype).to(like.device)
        return self.bases[key]

    def add(self, energy: Tensor, worth: Tensor) -> None:
        """Add sums over images, where they are: nothing waits for the device."""
        energy, worth = _exact(energy), _exact(worth)
        self.energy = energy if self.energy is None else self.energy + energy
        self.worth = worth if self.worth is None else self.worth + worth

    def add_changes(self, changes: Sequence[Float[Tensor, "image in frequency"]]) -> None:
        """Add what leaving out each coefficient changes through each call of the layer; a cut is one of all of them together."""
        alike = len({change.shape for change in changes}) == 1
        total = torch.stack([*changes]).sum(0) if alike else torch.cat([*changes])
        worth = total.square().sum(0)
        self.add(torch.zeros_like(worth), worth)


@dataclass
class _Watch:
    block: Block
    probing: bool
    batch: int = 0
    found: dict[str, Reading] = field(default_factory=dict)
    probes: list[tuple[Reading, Pointwise, Tensor]] = field(default_factory=list)
    bases: dict[Basis, Tensor] = field(default_factory=dict)

    def before(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give the layer an input of its own, which nothing else reads or writes into."""
        return (inputs[0].clone(),) if self.probing and inputs and isinstance(inputs[0], Tensor) else None

    def after(self, path: str, layer: Pointwise, x: Any, y: Any) -> None:
        """Note one call of a layer."""
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim != 4:
            self.found.setdefault(path, Reading((0, 0), (1, 1))).reason = "reads something else than maps"
            return
        size = size_of(layer, y)
        reading = self.found.setdefault(path, Reading(size, block_of(size, self.block), bases=self.bases))
        if self.batch == 0:
            reading.calls += 1
            if not computes_as_plain(layer, x, y):
                reading.reason = (
                    f"is a {type(layer).__name__}, which does not compute what a plain {plainly(layer)} does"
                )
        if size != reading.size:
            reading.reason = f"reads maps of {_by(reading.size)} and of {_by(size)}"
        elif min(size) < 2:
            reading.reason = f"its maps are {_by(size)}"
        elif math.prod(reading.block) > MAX_FREQUENCIES:
            reading.reason = f"a block of {_by(reading.block)} has more than {MAX_FREQUENCIES} coefficients"
        if not reading.reason:
            self.probes.append((reading, layer, x))

    def settle(self, model: nn.Module, output: Any, generator: torch.Generator) -> None:
        """Add what was noted while a batch ran."""
        probes, self.probes = self.probes, []
        gradients: list[Tensor | None] = [None] * len(probes)
        changes: dict[int, tuple[Reading, list[Tensor]]] = {}
        if self.probing and probes:
            outputs = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point()]
            if not any(each.requires_grad for each in outputs):
                raise UnsupportedError(
                    f"asked what the output of {type(model).__name__} owes to each frequency, found that it has no gradient. "
                    "Use score='energy'."
                )
            # With random signs, the squared derivative of the sum is on average the sum of the squared derivatives.
            signs = [torch.randint(0, 2, each.shape, generator=generator).to(each) * 2 - 1 for each in outputs]
            total = torch.stack([(each * sign).sum() for each, sign in zip(outputs, signs, strict=True)]).sum()
            gradients = list(torch.autograd.grad(total, [x for _, _, x in probes], allow_unused=True))
        for (reading, layer, x), gradient in zip(probes, gradients, strict=True):
            read = reading.spectrum(as_reads(layer, x.detach()).float())
            energy = read.square().mean(2).sum(0)
            if gradient is None:
                weights = matrix_of(layer).float().square().sum(0)
                worth = torch.zeros_like(energy) if self.probing else energy * weights[:, None]
            else:
                owed = reading.spectrum_of_gradient(as_reads(layer, gradient).float())
                changes.setdefault(id(reading), (reading, []))[1].append((read * owed).sum(2))
                worth = torch.zeros_like(energy)
            reading.add(energy, worth)
            reading.images += x.shape[0]
        for reading, calls in changes.values():
            reading.add_changes(calls)


def _exact(sums: Tensor) -> Float[Tensor, "..."]:
    """In float64, on the processor where the device has none."""
    return (sums.cpu() if sums.device.type == "mps" else sums).double()


def _most(image: Tensor) -> int:
    """How many images like this one run at a time where gradients are wanted; more small ones gain nothing on a processor."""
    return _CHUNK if image.is_cpu else min(_MOST, max(_CHUNK, _CHUNK_NUMBERS // max(1, image.numel())))


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
    model: nn.Module,
    layers: Mapping[str, Pointwise],
    batches: Iterable[Tensor],
    *,
    block: Block = "auto",
    score: Score = "output",
) -> dict[str, Reading]:
    """Run a model over images and look at the spectra that some pointwise layers of it read.

    Args:
        model: Runs in evaluation mode, and is as before, gradients of its parameters included.
        layers: By dotted name; those that are not called as layers are left out of the result.
        batches: Of images.
        block: Side of the blocks.
        score: Which change the worth of a coefficient is: ``energy`` of the layer's output, exactly; ``output`` of the model's, to first
            order, by one backward pass with random signs.

    Raises:
        DataError: A batch does not go through the model, or what a layer reads is not finite.
        UnsupportedError: With ``output``, the model has no gradient.
    """
    watch = _Watch(block, probing=score == "output")
    generator = torch.Generator().manual_seed(0)

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            assert isinstance(layer, Pointwise)  # noqa: S101 - it was put on no other
            watch.after(path, layer, inputs[0] if inputs else None, output)

        return note

    handles = [layer.register_forward_pre_hook(watch.before) for layer in layers.values()]
    handles += [layer.register_forward_hook(hook(path)) for path, layer in layers.items()]
    try:
        with still(model), torch.set_grad_enabled(watch.probing):
            for number, batch in enumerate(batches):
                for part in batch.split(at_a_time(batch[0], _most(batch[0]) if watch.probing else len(batch))):  # type: ignore[no-untyped-call]
                    images = part.clone().requires_grad_(watch.probing and part.is_floating_point())
                    watch.settle(model, see(model, images, number), generator)
                    watch.batch += 1
    finally:
        for handle in handles:
            handle.remove()
    for path, reading in watch.found.items():
        if reading.energy is not None and reading.worth is not None:
            reading.energy, reading.worth = reading.energy.cpu(), reading.worth.cpu()
            if not bool(torch.isfinite(reading.energy).all() and torch.isfinite(reading.worth).all()):
                raise DataError(
                    f"the features that {path!r} reads are not finite for the calibration images. Check the model's weights."
                )
            reading.energy /= reading.images
            reading.worth /= (
                reading.images / reading.calls
                if watch.probing
                else reading.worth.sum().clamp(min=torch.finfo(torch.float64).tiny)
            )
    return watch.found


def order_of(reading: Reading, order: str) -> list[int]:
    """The positions of the frequencies of a layer in the order in which they are kept; ``energy`` goes by what was read."""
    if order == "energy" and reading.energy is not None:
        total = reading.energy.sum(0)
        total[0] = torch.inf  # the mean always comes first
        return [int(position) for position in total.argsort(descending=True, stable=True)]
    named = {"radial": "radial", "square": "square"}.get(order, "zigzag")
    return scan(*reading.block, named)  # type: ignore[arg-type]  # one of three literals


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
