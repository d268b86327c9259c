"""The pointwise layers of MobileNetV2, dense and pruned in the frequency domain: time of one call.

    python benchmarks/pointwise_layers.py [--rounds 15]

Dense is the faster of the two memory formats. Pruned is the finalized layer with its channels sorted, compiled, and in places in plain
torch. ``same``: all channels keep the same share; ``spread``: the share runs linearly over the channels, from none (or from twice the mean less
one) to twice the mean (or all), each channel its own. ``products`` is one product of torch over what is kept, for what the transforms
add to it. Batch 1 on one thread; some layers also with 8 images, and with two threads. Outputs are compared with the masked form
before anything is timed. The program keeps to its first processor while one thread is measured.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import rounds
import torch
from torch import nn

from spectrim.kernels import banded, build
from spectrim.nn import BandedPointwiseConv2d, GroupedBandsConv2d

BLOCK = 7
SHAPES = (
    (32, 16, 112), (16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 24, 56), (144, 32, 28), (32, 192, 28), (192, 32, 28), (192, 64, 14),
    (64, 384, 14), (384, 64, 14), (384, 96, 14), (96, 576, 14), (576, 96, 14), (576, 160, 7), (160, 960, 7), (960, 160, 7),
    (960, 320, 7), (320, 1280, 7),
)  # fmt: skip
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
PROFILES = ("same", "spread")
SOME = ((144, 24, 56), (192, 32, 28), (384, 64, 14), (96, 576, 14), (960, 160, 7), (320, 1280, 7))
SETTINGS = ((SHAPES, 1, 1, SHARES), (SOME, 8, 1, (0.3, 0.5)), (SOME, 1, 2, (0.3, 0.5)))
"""Layers, images, threads, shares."""
ELSEWHERE = {
    (32, 16, 112): "1.07 / 0.62", (16, 96, 112): "1.14 / 0.70", (96, 24, 56): "1.33 / 0.84", (24, 144, 56): "1.46 / 0.95",
    (144, 24, 56): "1.35 / 0.87", (144, 32, 28): "1.72 / 1.18", (32, 192, 28): "1.62 / 1.05", (192, 32, 28): "1.64 / 0.99",
    (192, 64, 14): "2.06 / 1.40", (64, 384, 14): "2.04 / 1.41", (384, 64, 14): "2.14 / 1.44", (384, 96, 14): "2.29 / 1.59",
    (96, 576, 14): "2.34 / 1.68", (576, 96, 14): "2.37 / 1.73", (576, 160, 7): "2.07 / 1.61", (160, 960, 7): "2.09 / 1.69",
    (960, 160, 7): "2.11 / 1.66", (960, 320, 7): "2.23 / 1.86", (320, 1280, 7): "2.21 / 1.90",
}  # fmt: skip
"""How many times faster at a share of 0.3 a prototype was, on another processor, with AVX-512: transforms compiled, products by torch,
the best number of levels up to six. Typed in, as it is no result of this program."""


def bands(channels: int, share: float, profile: str) -> list[int]:
    """How many of the coefficients each channel keeps, most first."""
    frequencies = BLOCK * BLOCK
    if profile == "same":
        return [max(1, round(share * frequencies))] * channels
    low, high = max(0.0, 2 * share - 1), min(1.0, 2 * share)
    steps = [high - (high - low) * (channel + 0.5) / channels for channel in range(channels)]
    return [max(1, round(step * frequencies)) for step in steps]


def pruned(conv: nn.Conv2d, share: float, profile: str) -> tuple[nn.Module, nn.Module]:
    """The masked form and the finalized one."""
    masked = BandedPointwiseConv2d(
        conv.in_channels, conv.out_channels, (BLOCK, BLOCK), kept=bands(conv.in_channels, share, profile)
    )
    masked.take_over(conv)
    return masked.eval(), masked.finalized().eval()


def cases_of(shape: tuple[int, int, int], images: int, shares: Sequence[float]) -> dict[str, Any]:
    """What is timed for one layer."""
    inside, out, side = shape
    conv = nn.Conv2d(inside, out, 1)
    x = torch.randn(images, inside, side, side)
    last = x.contiguous(memory_format=torch.channels_last)
    other = nn.Conv2d(inside, out, 1).to(memory_format=torch.channels_last)
    cases: dict[str, Any] = {"dense": lambda: conv(x), "dense, last": lambda: other(last)}
    for profile in PROFILES:
        for share in shares:
            masked, form = pruned(conv, share, profile)
            assert isinstance(form, GroupedBandsConv2d)
            torch.testing.assert_close(form(last), masked(x), rtol=1e-3, atol=1e-4)
            cases[f"compiled, {profile}, {share}"] = lambda f=form: f(last)
    if len(shares) == len(SHARES):
        form = pruned(conv, 0.3, "same")[1]

        def plain(f: nn.Module = form) -> None:
            built, banded.built = banded.built, lambda: False
            f(last)
            banded.built = built

        cases["plain, same, 0.3"] = plain
        rows = images * (side // BLOCK) ** 2 * round(0.5 * BLOCK * BLOCK)
        a, b = torch.randn(rows, inside), torch.randn(inside, out)
        cases["products, 0.5"] = lambda: a @ b
    return cases


def main() -> None:
    chosen = rounds.options(__doc__.splitlines()[0], rounds=15)
    assert build(), "this benchmark compares the compiled form"
    found = []
    processors = sorted(os.sched_getaffinity(0))
    with torch.no_grad():
        for shapes, images, threads, shares in SETTINGS:
            os.sched_setaffinity(0, processors[:threads])
            torch.set_num_threads(threads)
            for shape in shapes:
                cases = cases_of(shape, images, shares)
                took = {
                    name: each.to_json()["wall_ms" if threads > 1 else "cpu_ms"]
                    for name, each in rounds.times(cases, rounds=chosen.rounds, fill_ms=3).items()
                }
                dense = min(took["dense"], took["dense, last"])
                row = {"shape": shape, "images": images, "threads": threads, "dense_ms": dense, "ms": took}
                row["ratios"] = {name: round(dense / each, 3) for name, each in took.items() if "dense" not in name}
                found.append(row)
                print(row, flush=True)
    rounds.write("pointwise_layers", found, seed=chosen.seed, rounds=chosen.rounds, block=BLOCK)


def table(document: Mapping[str, Any]) -> str:
    """Dense time and how many times faster the pruned layer is."""

    def cells(row: Mapping[str, Any], shares: Sequence[float]) -> list[str]:
        return [" / ".join(f"{row['ratios'][f'compiled, {p}, {share}']:.2f}" for p in PROFILES) for share in shares]

    def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return ["| " + " | ".join(each) + " |" for each in (head, [":--", *["--:"] * (len(head) - 1)], *rows)]

    def name(row: Mapping[str, Any]) -> str:
        return "{} → {} @ {}".format(*row["shape"])

    whole = [row for row in document["rows"] if (row["images"], row["threads"]) == (1, 1)]
    shares = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
    first = [
        [
            name(row),
            f"{row['dense_ms'] * 1000:,.0f}",
            *cells(row, shares),
            f"{max(0.0, 1 - row['ms']['products, 0.5'] / row['ms']['compiled, same, 0.5']):.0%}".replace("%", " %"),
            ELSEWHERE[tuple(row["shape"])],
            f"{row['ratios']['plain, same, 0.3']:.2f}",
        ]
        for row in whole
    ]
    head = ["layer", "dense, µs", *(f"keep {share}" for share in shares)]
    head += ["not products, 0.5", "prototype elsewhere, 0.3", "plain torch, 0.3"]
    several: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in document["rows"]:
        if row not in whole:
            several.setdefault((row["images"], row["threads"]), []).append(row)
    second = [
        [name(rows[0]), *(cell for row in rows for cell in cells(row, (0.3, 0.5)))]
        for rows in zip(*several.values(), strict=True)
    ]
    words = {(8, 1): "8 images", (1, 2): "two threads"}
    more = ["layer", *(f"{words[setting]}, keep {share}" for setting in several for share in (0.3, 0.5))]
    hardware, versions = document["hardware"], document["versions"]
    note = (
        f"{hardware['cpu']}, torch {versions['torch']}, commit {document['commit']}; blocks of {document['block']} x {document['block']}; how many "
        "times faster than the dense layer, all channels alike / each its own; one image, one thread unless said; minimum over "
        f"{document['rounds']} interleaved rounds, processor time, with two threads on the clock. Not products: what of the time is more than one "
        "product of torch over what is kept would take, with channels alike. Prototype: a processor with AVX-512, transforms compiled, products "
        "by torch."
    )
    return "\n".join([*lines(head, first), "", *lines(more, second), "", note])


if __name__ == "__main__":
    main()
