"""The pointwise layers of MobileNetV2, dense and pruned in the frequency domain: time of one call, batch 1.

    python benchmarks/pointwise_layers.py [--rounds 15] [--threads 1]

Dense is the faster of the two memory formats. Pruned is the finalized layer with its channels sorted, in plain torch and
compiled. ``same``: all channels keep the same share; ``spread``: the share runs linearly over the channels, from none to
twice the mean, in four levels. Outputs are compared with the masked form before anything is timed.
"""

from collections.abc import Mapping
from typing import Any

import rounds
import torch
from torch import nn

from spectrim.kernels import banded, build
from spectrim.nn import BandedPointwiseConv2d, GroupedBandsConv2d

BLOCK = 7
SHAPES = (
    (16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 24, 56), (144, 32, 28), (32, 192, 28), (192, 32, 28), (192, 64, 14),
    (64, 384, 14), (384, 64, 14), (384, 96, 14), (96, 576, 14), (576, 96, 14), (576, 160, 7), (160, 960, 7), (960, 160, 7),
    (960, 320, 7), (320, 1280, 7),
)  # fmt: skip
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
LEVELS = 4


def bands(channels: int, share: float, profile: str) -> list[int]:
    """How many of the coefficients each channel keeps, most first."""
    frequencies = BLOCK * BLOCK
    if profile == "same":
        return [max(1, round(share * frequencies))] * channels
    low, high = max(0.0, 2 * share - 1), min(1.0, 2 * share)
    steps = [high - (high - low) * (level + 0.5) / LEVELS for level in range(LEVELS)]
    return [max(1, round(steps[channel * LEVELS // channels] * frequencies)) for channel in range(channels)]


def pruned(conv: nn.Conv2d, share: float, profile: str) -> tuple[nn.Module, nn.Module]:
    """The masked form and the finalized one."""
    masked = BandedPointwiseConv2d(
        conv.in_channels, conv.out_channels, (BLOCK, BLOCK), kept=bands(conv.in_channels, share, profile)
    )
    masked.take_over(conv)
    return masked.eval(), masked.finalized().eval()


def main() -> None:
    chosen = rounds.options(__doc__.splitlines()[0], rounds=15)
    assert build(), "this benchmark compares the compiled form"
    plainly = {"on": False}
    built = banded.built
    banded.built = lambda: built() and not plainly["on"]
    found = []
    with torch.no_grad():
        for inside, out, side in SHAPES:
            conv = nn.Conv2d(inside, out, 1)
            x = torch.randn(1, inside, side, side)
            last = x.contiguous(memory_format=torch.channels_last)
            other = nn.Conv2d(inside, out, 1).to(memory_format=torch.channels_last)
            cases: dict[str, Any] = {"dense": lambda c=conv, x=x: c(x), "dense, last": lambda c=other, x=last: c(x)}
            for profile in ("same", "spread"):
                for share in SHARES:
                    masked, form = pruned(conv, share, profile)
                    assert isinstance(form, GroupedBandsConv2d)
                    torch.testing.assert_close(form(last), masked(x), rtol=1e-3, atol=1e-4)
                    cases[f"compiled, {profile}, {share}"] = lambda f=form, x=last: f(x)

                    def plain(f: nn.Module = form, x: torch.Tensor = x) -> None:
                        plainly["on"] = True
                        f(x)
                        plainly["on"] = False

                    if share in (0.3, 0.5):
                        cases[f"plain, {profile}, {share}"] = plain
            took = {name: each.to_json() for name, each in rounds.times(cases, rounds=chosen.rounds, fill_ms=3).items()}
            dense = min(took["dense"]["cpu_ms"], took["dense, last"]["cpu_ms"])
            ratios = {name: round(dense / each["cpu_ms"], 3) for name, each in took.items() if "dense" not in name}
            found.append({"in": inside, "out": out, "side": side, "dense_ms": dense, "ratios": ratios})
            print(inside, out, side, dense, {name: ratio for name, ratio in ratios.items() if "compiled" in name})
    rounds.write(
        "pointwise_layers",
        found,
        seed=chosen.seed,
        rounds=chosen.rounds,
        threads=chosen.threads,
        block=BLOCK,
        levels=LEVELS,
    )


def table(document: Mapping[str, Any]) -> str:
    """Dense time and how many times faster the pruned layer is."""
    rows = []
    for row in document["rows"]:
        cells = [f"{row['in']} → {row['out']} @ {row['side']}", f"{row['dense_ms'] * 1000:,.0f}"]
        cells += [
            " / ".join(f"{row['ratios'][f'compiled, {p}, {share}']:.2f}" for p in ("same", "spread"))
            for share in SHARES[1:5]
        ]
        cells.append(" / ".join(f"{row['ratios'][f'plain, {p}, 0.3']:.2f}" for p in ("same", "spread")))
        rows.append("| " + " | ".join(cells) + " |")
    head = ["layer", "dense, µs", *(f"keep {share}" for share in SHARES[1:5]), "keep 0.3, plain torch"]
    lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * (len(head) - 1), *rows]
    hardware, versions = document["hardware"], document["versions"]
    note = (
        f"{hardware['cpu']}, torch {versions['torch']}, commit {document['commit']}; {document['threads']} thread, batch 1, blocks of "
        f"{document['block']} x {document['block']}; how many times faster than the dense layer, all channels alike / spread over "
        f"{document['levels']} levels; processor time, minimum over {document['rounds']} interleaved rounds."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
