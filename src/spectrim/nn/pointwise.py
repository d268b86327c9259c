"""The banded pointwise convolution: a 1x1 convolution that sees only the low frequencies of its input, channel by channel."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry, covered, from_blocks, pair, to_blocks
from spectrim.nn.component import Layer, Spec
from spectrim.nn.learning import Learning, Phase
from spectrim.transforms.bands import hard_counts, rounded_up, soft_band
from spectrim.transforms.scans import block_basis

_MILLION = 1_000_000
_BISECTIONS = 40


class BandedPointwiseConv2d(Layer, kind="banded-pointwise"):
    """A 1x1 convolution of the first coefficients of its input: :math:`Y = \\mathrm{IDCT}(W (m \\odot \\mathrm{DCT}(X))) + \\beta`.

    The cosine transform is taken of every block of every input channel, on its own. A pointwise convolution commutes with it, so the
    inverse stands on the side that has fewer channels. What the mask *m* keeps of channel *c* are the first ``kept[c]`` coefficients
    in one order that all channels share; the first of them, the mean of the block, always stays. Maps that the block does not
    divide are continued by their last row and column and cropped again, which changes nothing where nothing is cut.

    With ``learning`` there is one more parameter, ``theta``: for each input channel the fraction of the coefficients that stays.
    Give it a learning rate of its own (0.005 with Adam) and no weight decay. :func:`spectrim.anneal_` says when it trains, and then
    the weight and the bias of this layer do not.

    Args:
        in_channels, out_channels: As of the convolution.
        block: Height and width of a block.
        order: In which frequencies are kept: a name of :data:`spectrim.transforms.scans.SCANS`, or their positions in C order.
        kept: How many coefficients each input channel keeps, in [1, height * width of the block]; all of them if None.
        stride: Of the convolution; what it skips is left out before the transform.
        bias: Whether there is one.
        last: Whether it is a linear layer, which reads maps with the channels last.
        learning: How ``kept`` is learned; it stays if None.

    Raises:
        ValueError: A value is out of range.

    References:
        Buckler, Adit, Hu, Zhang, Sampson 2021, "Dense Pruning of Pointwise Convolutions in the Frequency Domain",
        arXiv 2109.07707; the thresholds are per channel and learned as there, the ramp is that of
        Sukhbaatar et al. 2019 (arXiv 1905.07799).

    >>> layer = BandedPointwiseConv2d(2, 4, (2, 2), kept=[1, 3])
    >>> layer(torch.zeros(1, 2, 6, 6)).shape
    torch.Size([1, 4, 6, 6])
    """

    kept: Int[Tensor, "in"]
    basis: Float[Tensor, "frequency pixel"]
    progress: Tensor
    theta: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block: Sequence[int],
        *,
        order: str | Sequence[int] = "zigzag",
        kept: Sequence[int] | None = None,
        stride: Sequence[int] = (1, 1),
        bias: bool = True,
        last: bool = False,
        learning: Learning | None = None,
    ) -> None:
        super().__init__()
        self.geometry = Geometry(
            in_channels, out_channels, pair("block", block), order, pair("stride", stride), bias, last
        )
        self.learning = learning
        frequencies = self.geometry.frequencies
        counts = [frequencies] * in_channels if kept is None else list(kept)
        if len(counts) != in_channels or not all(type(k) is int and 1 <= k <= frequencies for k in counts):
            raise ValueError(
                f"kept must be {in_channels} whole numbers in [1, {frequencies}], one for each input channel, got {kept!r}."
            )
        # Empty: the numbers are those of the layer that it replaces, and nothing random is drawn.
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *(() if last else (1, 1))))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        # Not in 16 bits, though files have it so: no backend of torch.distributed sends these.
        self.register_buffer("kept", torch.tensor(counts, dtype=torch.int32))
        self.register_buffer(
            "basis", block_basis(self.geometry.block, self.geometry.positions).float(), persistent=False
        )
        self.inverse_first = False  # where the inverse transform stands if there are more channels before than behind
        self.theta = None
        self._phase: Phase = "settled"
        if learning is not None:
            self.theta = nn.Parameter(torch.tensor(counts) / frequencies)
            self.register_buffer("progress", torch.tensor(-1, dtype=torch.int32))
            self.register_buffer("ramp", torch.ones(()), persistent=False)

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out above across"]:
        """Maps of any size; ``above`` and ``across`` are those of the convolution. With ``last``, channels come and go last."""
        if x.ndim == 3:
            return self.forward(x[None])[0]
        geometry = self.geometry
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.training and self._phase == "cut-offs":
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        x = geometry.strided(geometry.channels_first(x))
        if geometry.in_channels <= geometry.out_channels or self.inverse_first:
            low = self.low(x)
            return F.linear(low.movedim(-3, -1), weight, bias) if geometry.last else F.conv2d(low, weight, bias)
        height, width = x.shape[-2:]
        coefficients, size = self._cut(x)
        mixed = F.conv2d(coefficients.to(x.dtype), geometry.as_convolution(weight))
        y = from_blocks(self._inverse(mixed, mixed.dtype), geometry.block, size)[..., :height, :width]
        return geometry.as_read(y if bias is None else y + bias.to(y.dtype)[:, None, None])

    def low(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch in height width"]:
        """What the convolution sees of its input, behind the stride: the low frequencies of each channel."""
        height, width = x.shape[-2:]
        coefficients, size = self._cut(x)
        return from_blocks(self._inverse(coefficients, x.dtype), self.geometry.block, size)[..., :height, :width]

    def _cut(self, x: Tensor) -> tuple[Float[Tensor, "batch in block frequency"], torch.Size]:
        """The coefficients that are kept, zero where they are not, and the size of the map that the blocks cover."""
        x = covered(x, self.geometry.block)
        with _in_full(x):
            blocks = to_blocks(x, self.geometry.block).to(self.basis.dtype)
            return blocks @ self.basis.T * self.mask()[None, :, None, :], x.shape[-2:]

    def _inverse(self, coefficients: Tensor, dtype: torch.dtype) -> Tensor:
        with _in_full(coefficients):
            return (coefficients.to(self.basis.dtype) @ self.basis).to(dtype)

    def mask(self) -> Float[Tensor, "in frequency"]:
        """The weights of the coefficients: zeros and ones, or ramps while cut-offs train."""
        frequencies = self.geometry.frequencies
        if self.training and self.theta is not None and self._phase in ("cut-offs", "both"):
            return soft_band(self.theta * frequencies, frequencies, self.get_buffer("ramp")).to(self.basis.dtype)
        return (torch.arange(frequencies, device=self.kept.device) < self.kept[:, None]).to(self.basis.dtype)

    # -- learning -------------------------------------------------------------------------------------------------

    @classmethod
    def penalty_together(cls, components: Sequence[Self]) -> Tensor | None:
        """The share of the costs that is kept, times the strength; where there is a target, what is above it."""
        terms = []
        for learning, members in _by_learning(components):
            costs = [
                layer.theta.sum() * layer.learning.cost
                for layer in members
                if layer.theta is not None and layer.learning is not None and layer._phase in ("cut-offs", "both")
            ]
            if costs:
                cost = torch.stack([each.to(costs[0]) for each in costs]).sum()
                above = cost if learning.keep is None else (cost - learning.keep).clamp(min=0)
                terms.append(learning.strength * above)
        return torch.stack(terms).sum() if terms else None

    @classmethod
    def anneal_together_(cls, components: Sequence[Self], progress: float) -> None:
        """Go to the phase at ``progress``: narrow the ramp, count what is kept, and settle all layers when the rounds are over."""
        now = round(progress * _MILLION)
        for learning, members in _by_learning(components):
            late = [layer for layer in members if int(layer.progress) < now]
            unsettled = [layer for layer in late if layer._phase_at(int(layer.progress)) != "settled"]
            for layer in late:
                layer.progress.fill_(now)
                layer._enter(layer._phase_at(now))
            if unsettled and learning.phase(now / _MILLION) == "settled":
                _settle_(unsettled, learning)
            else:
                for layer in unsettled:
                    layer._count()

    def _phase_at(self, progress: int) -> Phase:
        """The phase at a number of millionths; before the first there are weights alone."""
        return "weights" if progress < 0 or self.learning is None else self.learning.phase(progress / _MILLION)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        if self.learning is not None and phase in ("cut-offs", "both"):
            self.get_buffer("ramp").fill_(self.learning.ramp(int(self.progress) / _MILLION))

    def _count(self) -> None:
        """Hold the fractions in their range and count the coefficients under them."""
        if self.theta is not None:
            frequencies = self.geometry.frequencies
            with torch.no_grad():
                self.theta.clamp_(1 / frequencies, 1)
                self.kept.copy_(hard_counts(self.theta * frequencies, frequencies))

    # -- in and out of a model ------------------------------------------------------------------------------------

    @classmethod
    def join_(cls, layers: Sequence[Self]) -> None:
        """One ``theta`` for all that read the same stream."""
        first: dict[tuple[object, ...], nn.Parameter] = {}
        for layer in layers:
            if layer.theta is not None and layer.learning is not None and layer.learning.tied is not None:
                theta = layer.theta
                key = (layer.learning.tied, theta.shape, theta.device, theta.dtype, layer.geometry.frequencies)
                layer.theta = first.setdefault(key, theta)

    def take_over(self, host: nn.Module) -> None:
        """Take the weight and the bias of the convolution or linear layer in whose place this stands."""
        expected = {"weight": tuple(self.weight.shape)}
        if self.bias is not None:
            expected["bias"] = tuple(self.bias.shape)
        found = {name: tuple(each.shape) for name, each in host.named_parameters(recurse=False)}
        for name in (*expected, *found):
            if expected.get(name) != found.get(name):
                raise ValueError(f"with a {name} of shape {expected.get(name)}, found {found.get(name)}")
        strides = tuple(getattr(host, "stride", (1, 1)))
        if strides != self.geometry.stride:
            raise ValueError(f"with the stride {self.geometry.stride}, found {strides}")
        for name in expected:
            setattr(self, name, host.get_parameter(name))

    def finalized(self) -> nn.Module:
        """Dense products over few groups of channels; the plain convolution or linear layer where nothing is cut."""
        kept = self.kept.long().clamp(1, self.geometry.frequencies)
        if bool((kept == self.geometry.frequencies).all()):
            plain = self.geometry.dense()
            plain.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=self.weight.requires_grad)
            if self.bias is not None:
                plain.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
            return plain.train(self.training)
        weight = self.geometry.as_convolution(self.weight)
        return GroupedBandsConv2d.of(self.geometry, weight, self.bias, kept).train(self.training)

    @property
    def stands_for(self) -> type[nn.Module]:
        """A 1x1 convolution, or a linear layer on maps."""
        return self.geometry.host

    def multiplications(self, shape: Sequence[int]) -> int:
        """Of the products over what is kept, and of the transforms by rows and columns."""
        return self.geometry.multiplications(self.kept.long().clamp(1, self.geometry.frequencies), shape)

    def spec(self) -> Spec:
        """Sizes, block, order, and the settings of learning, without which there is no ``theta``."""
        spec = self.geometry.to_json()
        return spec if self.learning is None else spec | {"learning": self.learning.to_json()}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Build from :meth:`spec`, or from a plan's, which also holds ``kept`` and notes on the costs."""
        extra = {"kept", "learning", "macs", "calls"}
        geometry = Geometry.from_json({name: value for name, value in spec.items() if name not in extra})
        kept, learning = spec.get("kept"), spec.get("learning")
        if kept is not None and not isinstance(kept, list):
            raise ValueError(f"kept must be a list of whole numbers, got {kept!r}.")
        if learning is not None and not isinstance(learning, dict):
            raise ValueError(f"learning must be an object, got {learning!r}.")
        return cls(
            geometry.in_channels,
            geometry.out_channels,
            geometry.block,
            order=geometry.order,
            kept=kept,
            stride=geometry.stride,
            bias=geometry.bias,
            last=geometry.last,
            learning=None if learning is None else Learning.from_json(learning),
        )

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """The share of the coefficients that stays, and what becomes of the multiplications.

        >>> BandedPointwiseConv2d.summary({"in": 2, "out": 4, "block": [2, 2], "kept": [1, 3], "macs": [400, 200, 90]})
        'keep 50.0 % of the coefficients of 2 x 2 blocks, 1 to 3 in a channel: 400 → 200 multiplications, and 90 to transform'
        """
        frequencies, kept = math.prod(spec["block"]), spec.get("kept") or [math.prod(spec["block"])]
        size = " x ".join(map(str, spec["block"]))
        if learning := spec.get("learning"):
            to = (
                ""
                if learning["keep"] is None
                else f", {learning['keep']:.1%} of all layers' together".replace("%", " %")
            )
            return f"learn how many coefficients of {size} blocks each of {spec['in']} channels keeps{to}"
        share = f"{sum(kept) / len(kept) / frequencies:.1%}".replace("%", " %")
        text = f"keep {share} of the coefficients of {size} blocks, {min(kept)} to {max(kept)} in a channel"
        if macs := spec.get("macs"):
            calls = f", in {spec['calls']} calls" if "calls" in spec else ""
            text += f": {macs[0]:,} → {macs[1]:,} multiplications, and {macs[2]:,} to transform{calls}"
        return text

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        share = float(self.kept.float().mean()) / self.geometry.frequencies
        return (
            f"{self.geometry.in_channels}, {self.geometry.out_channels}, block={self.geometry.block}, keep={share:.3g}"
            f"{', last=True' * self.geometry.last}"
        )

    # -- what torch does to modules -------------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # .half() must not round the transform: the basis is laid where it belongs anew.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        dtype = torch.promote_types(self.basis.dtype, torch.float32)
        self.basis = block_basis(self.geometry.block, self.geometry.positions).to(self.basis.device, dtype)
        if self.learning is not None:
            self.register_buffer("ramp", torch.ones((), device=self.basis.device), persistent=False)
            if not self.progress.is_meta:
                self._enter(self._phase_at(int(self.progress)))
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.learning is not None:
            self._enter(self._phase_at(int(self.progress)))


def _in_full(x: Tensor) -> AbstractContextManager[object]:
    """Without autocast, on devices that know it."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def cut_offs(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that say how much each channel keeps: for a parameter group of their own in the optimizer.

    >>> cut_offs(nn.Sequential(BandedPointwiseConv2d(2, 4, (2, 2), learning=Learning(cost=0.5))))
    [Parameter containing:
    tensor([1., 1.], requires_grad=True)]
    """
    found = [module.theta for module in model.modules() if isinstance(module, BandedPointwiseConv2d)]
    return list({id(theta): theta for theta in found if theta is not None}.values())


def _by_learning(
    layers: Sequence[BandedPointwiseConv2d],
) -> list[tuple[Learning, list[BandedPointwiseConv2d]]]:
    """The layers that learn, those of one target together."""
    found: dict[tuple[object, ...], tuple[Learning, list[BandedPointwiseConv2d]]] = {}
    for layer in layers:
        if (learning := layer.learning) is not None:
            key = (learning.keep, learning.strength, learning.rounds, learning.levels)
            found.setdefault(key, (learning, []))[1].append(layer)
    return list(found.values())


def _settle_(layers: Sequence[BandedPointwiseConv2d], learning: Learning) -> None:
    """Make the cut-offs whole and few in each layer; where there is a target, lower all by one fraction until it is met."""

    def counts(layer: BandedPointwiseConv2d, less: float) -> Tensor:
        frequencies = layer.geometry.frequencies
        assert layer.theta is not None  # noqa: S101 - only layers that learn come here
        return rounded_up(hard_counts((layer.theta - less) * frequencies, frequencies), learning.levels)

    def cost(less: float) -> float:
        return sum(
            float(counts(layer, less).sum()) / layer.geometry.frequencies * layer.learning.cost
            for layer in layers
            if layer.learning is not None
        )

    with torch.no_grad():
        for layer in layers:
            layer._count()
        low, high = 0.0, 1.0
        if learning.keep is not None and cost(0.0) > learning.keep:
            for _ in range(_BISECTIONS):
                middle = (low + high) / 2
                low, high = (middle, high) if cost(middle) > learning.keep else (low, middle)
            low = high
        for layer in layers:
            layer.kept.copy_(counts(layer, low))
