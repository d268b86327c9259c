"""3x3 convolutions some of whose filters are rebuilt from others: time of one call, dense, in two stages, and fused.

    python benchmarks/template_layers.py --threads 1      # the rows of one thread; those of two are kept
    python benchmarks/template_layers.py --threads 2

Dense is the convolution with the rebuilt filters, in the faster of the two memory formats; fused is measured in both. Outputs
are compared before anything is timed.
"""

import json
from collections.abc import Mapping
from typing import Any

import rounds
import torch
from torch import nn

from spectrim.kernels import build
from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.reconstructed import TemplateConv

NAME = "template_layers"
SHAPES = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2), (128, 28), (256, 14))
"""Channels, in and out, and the side of the map."""
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
LEAST = 8
BATCHES = (1, 8)
ELSEWHERE: dict[tuple[int, int, int], tuple[float | None, ...]] = {
    (64, 32, 1): (2.85, 2.11, 1.63, 1.08, 0.80), (64, 32, 2): (2.04, 1.45, 1.06, 0.67, 0.46),
    (128, 16, 1): (3.67, 2.45, 1.87, 1.23, 0.91), (128, 16, 2): (2.93, 1.88, 1.44, 0.91, 0.65),
    (256, 8, 1): (4.30, 2.79, 2.07, 1.37, 1.00), (256, 8, 2): (3.52, 2.28, 1.68, 1.08, 0.80),
    (512, 4, 1): (4.80, 3.01, 2.18, 1.30, 0.90), (512, 4, 2): (4.05, 2.51, 1.79, 1.10, 0.81),
    (512, 2, 1): (1.21, 0.69, 0.48, 0.30, 0.22),
    (128, 28, 1): (5.10, 2.99, 2.17, 1.30, 0.95), (128, 28, 2): (3.70, 2.12, 1.39, 0.73, 0.43),
    (256, 14, 1): (5.29, 3.07, 2.11, 0.99, 0.79), (256, 14, 2): (3.84, 2.06, 1.71, 0.55, 0.24),
}  # fmt: skip
"""Plain two stages over dense by channels, side and groups, as measured before this library was, on another machine: one thread
of a Zen 4 processor, batch 1, torch 2.13. Not ours; shown beside ours for comparison."""


def rebuilt(channels: int, share: float, groups: int, generator: torch.Generator) -> TemplateConv:
    """A layer with random templates and factors."""
    sizes = ConvSizes.of(nn.Conv2d(channels, channels, 3, padding=1))
    layer = TemplateConv(sizes, groups=groups, templates=max(LEAST, round(share * channels)))
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    layer.weight /= (9 * channels) ** 0.5
    return layer.eval()


def measured(channels: int, side: int, batch: int, *, fewest: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """A row for each number of groups and templates of one shape."""
    x = torch.randn(batch, channels, side, side, generator=generator)
    last = x.contiguous(memory_format=torch.channels_last)
    cases: dict[str, Any] = {}
    dense = nn.Conv2d(channels, channels, 3, padding=1)
    turned = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
    cases |= {"dense": lambda: dense(x), "dense, last": lambda: turned(last)}
    kinds = [(groups, share) for groups in (1, 2) for share in SHARES]
    for groups, share in kinds:
        layer = rebuilt(channels, share, groups, generator)
        forms = layer.alternatives()
        plain, fused = forms["two stages"].eval(), forms["two stages, fused"].eval()
        expected = layer.finalized()(x)
        for found in (plain(x), fused(x), fused(last)):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        cases[f"plain {groups} {share}"] = lambda f=plain: f(x)
        cases[f"fused {groups} {share}"] = lambda f=fused: f(x)
        cases[f"fused, last {groups} {share}"] = lambda f=fused: f(last)
    took = {name: min(each.wall) for name, each in rounds.times(cases, rounds=fewest, fill_ms=2).items()}
    reference = min(took["dense"], took["dense, last"])
    shape = {"channels": channels, "side": side, "batch": batch, "dense_ms": round(reference, 4)}
    return [
        shape
        | {
            "dense_layout": "channels_last" if took["dense, last"] < took["dense"] else "contiguous",
            "groups": groups,
            "share": share,
            "templates": max(LEAST, round(share * channels)),
            "plain": round(reference / took[f"plain {groups} {share}"], 3),
            "fused": round(reference / took[f"fused {groups} {share}"], 3),
            "fused_last": round(reference / took[f"fused, last {groups} {share}"], 3),
        }
        for groups, share in kinds
    ]


def main() -> None:
    """Measure one number of threads."""
    chosen = rounds.options(str(__doc__).splitlines()[0], rounds=9)
    assert build(), "this benchmark compares the compiled form"
    generator = torch.Generator().manual_seed(chosen.seed)
    path = rounds.RESULTS / f"{NAME}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    kept = [row for row in kept if row["threads"] != chosen.threads]
    found: list[dict[str, Any]] = []
    with torch.inference_mode(False), torch.no_grad():
        for batch in BATCHES:
            for channels, side in SHAPES:
                rows = measured(channels, side, batch, fewest=chosen.rounds, generator=generator)
                found += [{"threads": chosen.threads, **row} for row in rows]
                print([(row["groups"], row["share"], row["plain"], row["fused"]) for row in rows], flush=True)
    rows = sorted(kept + found, key=lambda row: row["threads"])
    rounds.write(NAME, rows, seed=chosen.seed, rounds=chosen.rounds)


def table(document: Mapping[str, Any]) -> str:
    """How many times faster than dense: fused, plain, and what was measured elsewhere."""
    rows = document["rows"]
    head = ["layer", "groups", "dense, µs", *(f"{share}" for share in SHARES)]
    parts = []
    for threads, batch in sorted({(row["threads"], row["batch"]) for row in rows}):
        lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * (len(head) - 1)]
        for channels, side in SHAPES:
            for groups in (1, 2):
                own = [
                    row
                    for row in rows
                    if (row["threads"], row["batch"], row["channels"], row["side"], row["groups"])
                    == (threads, batch, channels, side, groups)
                ]
                there = ELSEWHERE.get((channels, side, groups)) if (threads, batch) == (1, 1) else None
                cells = []
                for place, row in enumerate(own):
                    text = f"**{max(row['fused'], row['fused_last']):.2f}** / {row['plain']:.2f}"
                    cells.append(text + (f" / *{there[place]:.2f}*" if there and there[place] is not None else ""))
                start = [f"{channels} @ {side}", str(groups), f"{own[0]['dense_ms'] * 1000:,.0f}"]
                lines.append("| " + " | ".join(start + cells) + " |")
        several = f"{threads} thread{'s' * (threads > 1)}, {batch} image{'s' * (batch > 1)}"
        parts.append(f"{several}, by the share of templates:\n\n" + "\n".join(lines))
    hardware, versions = document["hardware"], document["versions"]
    parts.append(
        f"{hardware['cpu']}, torch {versions['torch']}, commit {document['commit']}; how many times faster than the dense layer in its faster "
        f"memory format, at least {LEAST} templates: **fused**, in the faster format too / two stages in plain torch / *plain torch as measured before "
        f"on another machine, one thread of Zen 4*; minimum over {document['rounds']} interleaved rounds."
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
