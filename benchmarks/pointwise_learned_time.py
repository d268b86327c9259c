"""The networks that ``pointwise_learned.py`` left behind, finalized and timed against the dense one, end to end.

    python benchmarks/pointwise_learned_time.py [--threads 1] [--batch 1] [--rounds 20]

Each call measures one number of threads and one batch, all networks in turns, and leaves what was measured for others in the file. Norms are
folded in all of them, they run in channels_last, and the finalized network's output is compared with that of the form that was trained. Beside them runs the dense
network with its depthwise convolutions fused with the pointwise ones beside them, as finalized networks have them: what a cut is worth is the difference to that.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rounds
import torch
from pointwise_learned import RUNS
from pointwise_mobilenetv2 import network, prepared
from pointwise_peers import Smaller
from realdata import imagenet
from torch import nn

import spectrim as st
from spectrim.kernels import build
from spectrim.measure.fused_forms import fuse_where_faster_

NAME = "pointwise_learned_time"
FUSED = "dense, fused"
FILL = 300
"""Milliseconds of calls in a row: a network that runs by itself finds its weights in the cache."""


def loaded(path: Path, side: int | None = None) -> nn.Module:
    """The network of a file."""
    net = st.load_(network(), path).eval().requires_grad_(requires_grad=False)
    return (Smaller(net, side) if side else net).to(memory_format=torch.channels_last)


def finalized(path: Path, x: torch.Tensor, side: int | None = None) -> nn.Module:
    """The network of a file as it runs."""
    net = loaded(path, side)
    with torch.no_grad():
        expected = net(x)
    st.finalize_(net, example=x)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-2, atol=1e-2)
    return net


def fused_dense(x: torch.Tensor) -> nn.Module:
    """The dense network in the form that the others run in, with nothing cut."""
    net = network().to(memory_format=torch.channels_last)
    fuse_where_faster_(net, x)
    return net


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
    assert build(), "this benchmark needs the compiled form"
    x = prepared(imagenet("imagenet-sample-1000.npz", crop=224)[0][: chosen.batch])
    document = json.loads((rounds.RESULTS / "pointwise_learned.json").read_text(encoding="utf-8"))
    nets = {"dense": network().to(memory_format=torch.channels_last), FUSED: fused_dense(x)}
    for row in document["rows"]:
        if chosen.arms and row["name"] not in chosen.arms:
            continue
        if (RUNS / f"{row['name']}.safetensors").exists():
            nets[row["name"]] = finalized(RUNS / f"{row['name']}.safetensors", x, row.get("side"))
    with torch.inference_mode():
        took = rounds.times(
            {name: lambda net=net: net(x) for name, net in nets.items()}, rounds=chosen.rounds, fill_ms=FILL
        )
    path = rounds.RESULTS / f"{NAME}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    setting = {"threads": chosen.threads, "batch": chosen.batch}
    rows = [row for row in rows if {key: row[key] for key in setting} != setting or row["name"] not in took]
    dense = min(took["dense"].wall)
    for name, each in took.items():
        ratio = min(each.wall) / dense
        paired = statistics.median(own / other for own, other in zip(each.wall, took["dense"].wall, strict=True))
        row = {"name": name, **setting, **each.to_json(), "time": ratio, "paired": paired, "rounds": chosen.rounds}
        rows.append({**row, "commit": rounds.COMMIT})
        print(f"{name:<24} {min(each.wall):8.2f} ms  {ratio:.3f}", flush=True)
        assert math.isfinite(ratio)
    rounds.write(NAME, rows, seed=0)


def table(document: Mapping[str, Any]) -> str:
    """Ratios of minima and medians of ratios in every setting, which tell how far the machine is to be believed."""
    settings = sorted({(row["batch"], row["threads"]) for row in document["rows"]})
    rows = {(row["name"], row["batch"], row["threads"]): row for row in document["rows"]}
    heads = [f"batch {batch}, {threads} thread{'s' * (threads > 1)}" for batch, threads in settings]
    lines = ["| " + " | ".join(["bands", *heads]) + " |", "| :-- |" + " --: |" * len(settings)]
    for name in dict.fromkeys(["dense", *(row["name"] for row in document["rows"])]):
        cells = []
        for setting in settings:
            own = rows.get((name, *setting))
            if own is None:
                cells.append("–")
            elif name == "dense":
                cells.append(f"{own['wall_ms']:.1f} ms")
            else:
                cells.append(f"{own['time']:.2f}" + (f" / {own['paired']:.2f}" if "paired" in own else ""))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    note = "Time relative to the dense network: of the least of all rounds / the median over the rounds, in each of which both take their turn, where it was kept; the dense network's own in milliseconds."
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
