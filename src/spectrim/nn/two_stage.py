"""The inference form of a template convolution: few pointwise products, then a cheap sum over shifted latents."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spectrim.kernels.building import built
from spectrim.kernels.two_stage import LaidOut, two_stage
from spectrim.nn.component import Layer, Spec
from spectrim.nn.conv_sizes import ConvSizes

_POINTWISE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class TwoStageConv(Layer, kind="two-stage-conv"):
    """First every tap of every template is contracted with the channels, then outputs are mixed from shifted results.

    With scalar factors output *n* is :math:`\\sum_{g,k} T_{gkn}\\, \\mathrm{shift}_k(Z_{gk\\,m(n)})`, where
    :math:`Z_{gkm}` is the pointwise product of group *g* of the input with tap *k* of template *m*. Layers that move in
    steps take every step of the input before the first stage, so that nothing is computed that is not used. Maps of the
    taps that are no factors are applied before the shift. With scalar factors and two dimensions both stages are one call of
    :mod:`spectrim.kernels` where that is built and ``fused`` is true, as it is at first.

    Args:
        sizes: Of the convolution that this computes.
        groups: Groups of input channels, each with transformations of its own.
        templates: How many.
        rows: Most outputs that one template has a part in, itself included.
        mixes: Whether transformations mix taps.

    References:
        Miles and Mikolajczyk 2023 (arXiv 2110.12844), the two stages of the efficient layer, and its groups.
    """

    order: Tensor

    def __init__(self, sizes: ConvSizes, *, groups: int, templates: int, rows: int, mixes: bool) -> None:
        super().__init__()
        self.sizes, self.groups, self.templates, self.rows, self.mixes = sizes, groups, templates, rows, mixes
        taps = sizes.taps
        self.latent = nn.Parameter(torch.zeros(taps, groups * templates, sizes.inside // groups))
        self.mixing = nn.Parameter(torch.zeros(templates, rows * (taps if mixes else 1), groups * taps))
        self.bias = nn.Parameter(torch.zeros(sizes.outside)) if sizes.bias else None
        self.register_buffer("order", torch.zeros(sizes.outside, dtype=torch.int32))
        self.fused = True
        self._laid = LaidOut()

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        sizes: ConvSizes,
        templates: Float[Tensor, "template in *kernel"],
        maps: Float[Tensor, "group out ..."],
        template_of: Sequence[int],
        bias: Tensor | None,
    ) -> Self:
        """The form of given templates.

        Args:
            sizes: Of the convolution.
            templates: The filters that are kept.
            maps: For every group and output its factors ``(*kernel)``, flat, or its matrix of taps; those of templates too.
            template_of: For every output its template.
            bias: One per output.
        """
        groups = maps.shape[0]
        mixes = maps.ndim == 4
        rows: list[list[int]] = [[] for _ in range(len(templates))]
        for output, template in enumerate(template_of):
            rows[template].append(output)
        most = max(map(len, rows))
        layer = cls(sizes, groups=groups, templates=len(templates), rows=most, mixes=mixes).to(templates)
        tapped = templates.reshape(len(templates), groups, -1, sizes.taps)
        layer.latent.copy_(tapped.permute(3, 1, 0, 2).reshape(layer.latent.shape))
        mixing = layer.mixing.view(len(templates), most, -1, groups, sizes.taps)
        for template, outputs in enumerate(rows):
            for row, output in enumerate(outputs):
                mixing[template, row] = maps[:, output].transpose(0, 1) if mixes else maps[None, :, output]
                layer.order[output] = template * most + row
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
        return layer

    def forward(self, x: Float[Tensor, "batch in *space"]) -> Float[Tensor, "batch out *left"]:
        """What the convolution with the rebuilt filters gives."""
        sizes = self.sizes
        if x.ndim == sizes.dims + 1:
            return self.forward(x[None])[0]
        if self.mixes:
            return self._mixed_then_shifted(x)
        return two_stage(
            x,
            self.latent,
            self.mixing,
            self.order,
            self.bias,
            groups=self.groups,
            kernel=sizes.kernel,
            stride=sizes.stride,
            padding=sizes.padding,
            dilation=sizes.dilation,
            laid=self._laid if self.fused else None,
        )

    def _mixed_then_shifted(self, x: Tensor) -> Tensor:
        sizes, count, ones = self.sizes, self.groups * self.templates, (1,) * self.sizes.dims
        x = F.pad(x, [side for each in reversed(sizes.padding) for side in (each, each)])
        left, places = sizes.reads(x.shape[2:])
        # group, template, tap
        weight = self.latent.view(sizes.taps, self.groups, self.templates, -1).permute(1, 2, 0, 3)
        z = _POINTWISE[sizes.dims](x, weight.reshape(sizes.taps * count, -1, *ones), groups=self.groups)
        space = z.shape[2:]
        z = z.reshape(x.shape[0], self.groups, self.templates, sizes.taps, -1).transpose(1, 2).flatten(2, 3)
        u = (self.mixing @ z).reshape(x.shape[0], self.templates * self.rows, sizes.taps, *space)
        every = (slice(None), slice(None))
        total = u[:, :, 0][*every, *places[0]]
        for tap in range(1, sizes.taps):
            total = total + u[:, :, tap][*every, *places[tap]]
        y = total.reshape(x.shape[0], -1, *left).index_select(1, self.order)
        return y if self.bias is None else y + self.bias.reshape(-1, *ones)

    def fuses(self) -> bool:
        """Whether there is a compiled form of it in this process."""
        return not self.mixes and self.sizes.dims == 2 and self.latent.device.type == "cpu" and built()

    def finalized(self) -> nn.Module:
        """Itself: this is an inference form."""
        return self

    @property
    def stands_for(self) -> type[nn.Module]:
        """A convolution of as many dimensions."""
        return self.sizes.host

    def spec(self) -> Spec:
        """Sizes of the convolution, and how it is made."""
        more: Spec = {"groups": self.groups, "templates": self.templates, "rows": self.rows, "mixes": self.mixes}
        return self.sizes.to_json() | more

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty layer of the given sizes."""
        own = {"groups", "templates", "rows", "mixes"}
        sizes = ConvSizes.from_json({name: value for name, value in spec.items() if name not in own})
        for name in ("groups", "templates", "rows"):
            if type(spec.get(name)) is not int or not 1 <= spec[name] <= max(sizes.inside, sizes.outside):
                raise ValueError(
                    f"{name} must be a positive whole number, no more than the channels, got {spec.get(name)!r}."
                )
        if sizes.inside % spec["groups"] or type(spec.get("mixes")) is not bool:
            raise ValueError(f"groups must divide {sizes.inside} and mixes be true or false, got {dict(spec)}.")
        return cls(sizes, groups=spec["groups"], templates=spec["templates"], rows=spec["rows"], mixes=spec["mixes"])

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """How many filters are computed, and how many come from them."""
        return f"compute {spec['templates']} of {spec['out']} filters in two stages"

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        return f"{self.sizes}, templates={self.templates}, groups={self.groups}"
