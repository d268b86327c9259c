"""The widths of the CFDP paper: its lists of rates, and which layers each rate is for."""

import re
from collections.abc import Mapping
from types import MappingProxyType

RATES: Mapping[str, str] = MappingProxyType(
    {
        "vgg16_bn": "vgg16_bn:[0.21]*7+[0.75]*5",
        "vgg16_bn-2.50M": "vgg16_bn:[0.30]*7+[0.75]*5",
        "vgg16_bn-1.90M": "vgg16_bn:[0.45]*7+[0.78]*5",
        "resnet56": "resnet56:[0.]+[0.18]*29",
        "resnet110": "resnet110:[0.]+[0.2]*2+[0.3]*18+[0.35]*36",
        "googlenet": "googlenet:[0.3]+[0.6]*2+[0.7]*5+[0.8]*2",
        "resnet50": "resnet50:[0.]+[0.1]*3+[0.35]*16",
    }
)
"""For ``CFDP(keep=name, round_to=1)``: the networks of :mod:`spectrim.zoo`, and torchvision's ResNet-50.

VGG-16 has two smaller sizes, named as in figure 3 by the parameters that are left; their rates are those of HRankPlus.
"""

_ROUNDED_DOWN = {"googlenet": {"a5.branch2.3": 63 / 320}}
"""In the release's floating point, 320 (1 - 0.8) is a little less than 64."""


def _resnet_cifar(blocks: int) -> tuple[tuple[str, ...], ...]:
    inner = tuple((f"layer{stage}.{block}.conv1",) for stage in (1, 2, 3) for block in range(blocks))
    return (("conv1",), ("layer1.*.conv2",), ("layer2.*.conv2",), *inner)


PLACES: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "vgg16_bn": tuple((f"features.{place}",) for place in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37)),
        "resnet56": _resnet_cifar(9),
        "resnet110": _resnet_cifar(18),
        "googlenet": (
            (),  # the release reads a rate for the stem and leaves it whole
            *((f"{name}.branch2.3", f"{name}.branch3.3", f"{name}.branch3.6") for name in ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5")),
            ("b5.branch3.3",),
        ),
        "resnet50": (
            ("conv1",),
            *((f"layer{stage}.*.conv3",) for stage in (1, 2, 3)),
            *((f"layer{stage}.{block}.conv[12]",) for stage, blocks in enumerate((3, 4, 6, 3), 1) for block in range(blocks)),
        ),
    }
)  # fmt: skip
"""The layers that each rate of a list is for, by network; what no rate is for stays whole."""


def fractions(name: str) -> Mapping[str, float]:
    """The fraction that stays, by glob.

    Args:
        name: One of :data:`RATES`, or ``NETWORK:LIST`` with one of :data:`PLACES` and a list of the shares that go, as the
            released program takes them.

    Raises:
        ValueError: It is neither, or the list is not as long as the network wants.

    >>> fractions("vgg16_bn:[0.25]*7+[0.5]*5")["features.24"]
    0.5
    """
    network, colon, text = RATES.get(name, name).partition(":")
    if not colon or network not in PLACES:
        raise ValueError(
            f"keep must be a number, a mapping, one of {', '.join(RATES)}, or NETWORK:LIST with a network of {', '.join(PLACES)} "
            f"and the released program's list of rates, as {RATES['resnet56']!r}; got {name!r}."
        )
    rates, places = _rates(text, name), PLACES[network]
    if len(rates) != len(places):
        raise ValueError(
            f"{network} takes a list of {len(places)} rates, as {RATES[network]!r}; got {len(rates)} in {name!r}."
        )
    found = {glob: 1 - rate for rate, globs in zip(rates, places, strict=True) for glob in globs}
    return found | (_ROUNDED_DOWN.get(network, {}) if name in RATES else {})


def _rates(text: str, name: str) -> list[float]:
    """A list in the grammar of the releases: ``[0.]+[0.18]*29``, ``[0.1,0.2]``."""
    found: list[float] = []
    for part in text.replace(" ", "").split("+"):
        known = re.fullmatch(r"\[((?:\d*\.?\d+|\d+\.)(?:,(?:\d*\.?\d+|\d+\.))*)\](?:\*(\d{1,3}))?", part)
        if known is None:
            raise ValueError(f"a list of rates is written [0.]+[0.18]*29, got {part!r} in keep={name!r}.")
        found += [float(rate) for rate in known[1].split(",")] * int(known[2] or 1)
    if bad := [rate for rate in found if not rate < 1]:
        raise ValueError(f"a rate is the share that goes, in [0, 1), got {bad[0]:g} in keep={name!r}.")
    return found
