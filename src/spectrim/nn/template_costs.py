"""What a template convolution stores and multiplies, by the paper's equations and by what is really there."""

import math

from spectrim.nn.conv_sizes import ConvSizes
from spectrim.transforms.taps import Family, shape_of


def stored(
    sizes: ConvSizes, templates: int, *, groups: int = 1, family: Family = "scalar", share_groups: bool = False
) -> int:
    """Weights that a layer stores: templates, and a transformation for each group and rebuilt filter.

    With scalar factors :math:`K^2 C M + K^2 G (N - M)`, and where the groups share the slices of their templates
    :math:`K^2 (C/G) M + K^2 G (N - M)`; biases are not counted.

    >>> from torch import nn
    >>> stored(ConvSizes.of(nn.Conv2d(64, 128, 3)), 32, groups=2)
    20160
    """
    depth = sizes.inside // groups if share_groups else sizes.inside
    one = groups * math.prod(shape_of(family, sizes.kernel))
    return templates * depth * sizes.taps + (sizes.outside - templates) * one


def stored_by_equation(sizes: ConvSizes, templates: int, *, groups: int = 1, family: Family = "scalar") -> int:
    """The paper's count of the same, with scalar factors :math:`K^2 (C/G) M + K^2 G (N - M)`.

    It counts templates at the depth of one group, as if all groups shared them. Only with templates of full depth is a
    network all of whose filters are templates the network that it started from.

    References:
        Miles and Mikolajczyk 2023, equation 3.9 of its long version.

    >>> from torch import nn
    >>> stored_by_equation(ConvSizes.of(nn.Conv2d(64, 128, 3)), 32, groups=2)
    10944
    """
    return stored(sizes, templates, groups=groups, family=family, share_groups=True)


def products(sizes: ConvSizes, templates: int, *, groups: int = 1, family: Family = "scalar") -> int:
    """Multiply-accumulates of both stages for one position of the output: :math:`K^2 C M + K^2 G (N - M)`.

    Templates themselves need no second stage. Rotations and affine maps take four taps for one, matrices all of them.

    References:
        Miles and Mikolajczyk 2023, equation 3.5 of its long version.

    >>> from torch import nn
    >>> 16 * 16 * products(ConvSizes.of(nn.Conv2d(64, 128, 3)), 32, groups=2)
    5160960
    """
    each = {"scalar": 1, "rotation": 4, "affine": 4, "affine-moved": 4, "matrix": sizes.taps}[family]
    return sizes.taps * (sizes.inside * templates + each * groups * (sizes.outside - templates))
