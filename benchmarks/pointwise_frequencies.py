"""What each frequency of each channel is worth to MobileNetV2 with its ImageNet weights: two claims of the paper, checked and drawn.

    python benchmarks/pointwise_frequencies.py

Needs ``SPECTRIM_DATA``. Writes the numbers of each layer, without those of single channels, and ``docs/_static/pointwise_frequencies.png``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rounds
import torch
from pointwise_mobilenetv2 import network, prepared
from realdata import imagenet

import spectrim as st

IMAGES, KEEP = 64, 0.5
PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "pointwise_frequencies.png"


def main() -> None:
    chosen = rounds.options(__doc__.splitlines()[0], rounds=1)
    sample, _ = imagenet("imagenet-sample-1000.npz", crop=224)
    images = prepared(sample[:: len(sample) // IMAGES][:IMAGES])
    method = st.PointwisePruning(keep=KEEP, levels=64, pays="always")
    found = st.inspect_frequencies(network(), method, calibration=images)
    print(found)
    found.draw(PICTURE)
    rows = [{**each.to_json(), "channels": len(each.worth)} for each in found.layers]
    bands = torch.cat([torch.tensor(each.kept) / (each.block[0] * each.block[1]) for each in found.layers if each.kept])
    spread = torch.quantile(bands, torch.tensor([0.1, 0.5, 0.9])).tolist()
    keys = ("path", "channels", "block", "falls", "quantiles")
    short = [{key: row[key] for key in keys} for row in rows]
    rounds.write(
        "pointwise_frequencies", short, seed=chosen.seed, method=repr(method), images=len(images), quantiles=spread
    )


def table(document: Mapping[str, Any]) -> str:
    """A row for each layer."""
    lines = [
        "| layer | channels | block | rank correlation | kept, low tenth | median | high tenth |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in document["rows"]:
        shares = ["–"] * 3 if row["quantiles"] is None else [f"{share:.2f}" for share in row["quantiles"]]
        cells = [row["path"], row["channels"], " x ".join(map(str, row["block"])), f"{row['falls']:.2f}", *shares]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    low, middle, high = document["quantiles"]
    note = (
        f"`{document['method']}`, {document['images']} images; over all channels the tenth that keeps least keeps at most {low:.2f} of its "
        f"coefficients, half of them at most {middle:.2f}, the tenth that keeps most at least {high:.2f}. Commit {document['commit']}."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
