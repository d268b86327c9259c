"""How long scoring all channels takes, beside the bare forward passes over the same images.

    python benchmarks/cfdp_score_time.py                         # measure what the file lacks
    python benchmarks/cfdp_score_time.py --networks resnet56     # some of it

One pass with a score at every layer that a uniform cut looks at, against the same pass with none, in turns; weights and
images are random, on which time does not depend. The names of the scores are those of ``CFDP(score=...)``; ``random`` looks
at nothing and needs no pass.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from cfdp_speed import NETWORKS
from rounds import RESULTS, times, write
from torch import Tensor, nn

from spectrim.methods.cfdp_scores import LAMBDA, SCORES
from spectrim.methods.features import mean_scores
from spectrim.surgery.channels import groups

NAME = "cfdp_score_time"
IMAGES: Mapping[str, tuple[int, int]] = {"resnet56": (640, 128), "vgg16_bn": (640, 128), "resnet50": (64, 16)}
"""Images, and how many of them at a time."""


def passes(model: nn.Module, batches: list[Tensor]) -> dict[str, Callable[[], object]]:
    """The bare passes, and those with each score."""
    found, _ = groups(model, [batches[0][:1]])
    readers = {reader.path for group in found for reader in group.readers}

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    def scored(name: str) -> Callable[[], object]:
        score = SCORES[name]
        return lambda: mean_scores(model, readers, batches, lambda maps: score(maps, 10.0, LAMBDA))

    return {"bare": bare} | {name: scored(name) for name in SCORES}


def measured(name: str, rounds: int) -> dict[str, Any]:
    """One network."""
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    count, batch = IMAGES[name]
    images = torch.randn(count, 3, side, side)
    found = times(passes(model, list(images.split(batch))), rounds=rounds, fill_ms=0)
    seconds = {what: min(each.wall) / 1000 for what, each in found.items()}
    return {
        "network": name,
        "images": count,
        "batch": batch,
        "input": [3, side, side],
        "maps": sum(len(group.units) for group in groups(model, [images[:1]])[0]),
        "seconds": {what: round(each, 3) for what, each in seconds.items()},
        "ratio": {what: round(each / seconds["bare"], 3) for what, each in seconds.items() if what != "bare"},
    }


def table(document: Mapping[str, Any]) -> str:
    """Seconds, and how many times the bare passes."""
    names = list(document["rows"][0]["ratio"])
    lines = [
        f"| network | images | bare passes, s | {' | '.join(f'`{name}`' for name in names)} |",
        f"| :-- | --: | --: |{' --: |' * len(names)}",
    ]
    for row in document["rows"]:
        cells = [f"{row['seconds'][name]:.1f} s ({row['ratio'][name]:.2f}x)" for name in names]
        lines.append(
            f"| {row['network']} | {row['images']} of {row['input'][1]} x {row['input'][2]} | {row['seconds']['bare']:.1f} | {' | '.join(cells)} |"
        )
    hardware = document["hardware"]
    note = (
        f"{hardware.get('cpu', 'unknown processor')}, one thread, torch {document['versions'].get('torch', '?')}, commit {document['commit']}; "
        f"minimum over {document['rounds']} rounds in turns."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--rounds", type=int, default=3, help="figures per case (default: %(default)s)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / f"{NAME}.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    for name in chosen.networks:
        if all(row["network"] != name for row in rows):
            rows.append(measured(name, chosen.rounds))
            rows.sort(key=lambda row: list(IMAGES).index(row["network"]))
            print(rows, write(NAME, rows, seed=0, rounds=chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
