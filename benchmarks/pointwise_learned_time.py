"""The networks that ``pointwise_learned.py`` left behind, finalized and timed against the dense one, end to end.

    python benchmarks/pointwise_learned_time.py [--threads 1] [--batch 1] [--rounds 20]

Each call measures one number of threads and one batch, all networks in turns, and leaves what was measured for others in the file. Norms are
folded in all of them, and they run in channels_last; see ``pointwise_clock.py``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pointwise_clock as clock
import rounds
import torch
from pointwise_learned import RUNS
from pointwise_mobilenetv2 import network, prepared
from pointwise_peers import Smaller
from realdata import imagenet
from torch import nn

NAME = "pointwise_learned_time"


def loaded(path: Path, side: int | None = None) -> nn.Module:
    """The network of a file, on smaller images if asked."""
    net = clock.network_of(path, network())
    return Smaller(net, side).to(memory_format=torch.channels_last) if side else net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "arms", nargs="*", metavar="ARM", help="default: all; the dense network always runs beside them"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    x = prepared(imagenet("imagenet-sample-1000.npz", crop=224)[0][: chosen.batch])
    document = json.loads((rounds.RESULTS / "pointwise_learned.json").read_text(encoding="utf-8"))
    dense = network().to(memory_format=torch.channels_last)
    nets = {clock.DENSE: dense, clock.FUSED: clock.finalized(dense, x)}
    for row in document["rows"]:
        path = RUNS / f"{row['name']}.safetensors"
        if path.exists() and (not chosen.arms or row["name"] in chosen.arms):
            nets[row["name"]] = clock.finalized(loaded(path, row.get("side")), x)
    there = rounds.RESULTS / f"{NAME}.json"
    old: list[dict[str, Any]] = json.loads(there.read_text(encoding="utf-8"))["rows"] if there.exists() else []
    rounds.write(NAME, clock.replaced(old, clock.in_turns(nets, x, count=chosen.rounds)), seed=0)


if __name__ == "__main__":
    main()
