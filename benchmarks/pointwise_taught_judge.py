"""The networks that ``pointwise_taught.py`` left behind: their answers to the validation images, and their time end to end.

    python benchmarks/pointwise_taught_judge.py FOLDER                              # accuracy of what is new in the folder
    python benchmarks/pointwise_taught_judge.py FOLDER --time --batch 1 --threads 1 --rounds 20

Needs ``SPECTRIM_DATA`` with imagenet-val-1300.npz. The folder holds files of networks, each with how it was trained inside. A call with ``--time`` measures one batch and one
number of threads, all networks that have been judged in turns with the dense one, finalized, compiled, in channels_last; the output of each is compared first with that of the form that was
trained; see ``pointwise_clock.py``. What was measured before stays in the file.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pointwise_clock as clock
import rounds
import torch
from banded_costs import banded_costs
from judging import compared, judgement
from pointwise_learned import DENSE_MACS
from pointwise_learned_time import loaded
from pointwise_mobilenetv2 import answers, network, prepared
from realdata import imagenet
from torch import Tensor, nn

from spectrim import measure
from spectrim.artifact.reader import read_structure
from spectrim.nn.component import components

NAME = "pointwise_taught"


def multiplied(net: nn.Module, dense: nn.Module, side: int | None) -> list[int]:
    """As ``pointwise_learned.py`` has it: of the layers that were cut what they were, what they keep, and the transforms; of others the whole network."""
    if not side and any(components(net)):
        return [*banded_costs(net, dense, torch.zeros(1, 3, 224, 224))]
    inner = net.net if isinstance(net, Smaller) else net
    return [DENSE_MACS, measure.macs(inner, torch.zeros(1, 3, side or 224, side or 224)), 0]


def judged(
    path: Path, told: Mapping[str, Any], dense: nn.Module, images: Tensor, labels: Tensor, before: Tensor
) -> dict[str, Any]:
    """The row of one file."""
    started, side = time.perf_counter(), told.get("side")
    net = loaded(path, side)
    found = answers(net, images)
    training = {key: value for key, value in told.items() if key not in ("name", "trace")}
    return {
        "name": told["name"],
        "taught": training,
        "trace": told["trace"],
        "bytes": path.stat().st_size,
        "layers": sum(1 for _ in components(net)),
        "macs": multiplied(net, dense, side),
        **compared(found, before, labels),
        "judge_seconds": round(time.perf_counter() - started),
        "commit": rounds.COMMIT,
    }


def asked(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("arms", nargs="*", metavar="ARM", help="default: all that the folder holds")
    parser.add_argument("--again", action="store_true", help="judge those too that the file has already")
    parser.add_argument("--time", action="store_true", help="measure the time of those that were judged, instead")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=int, help="of the validation images take so many; nothing is written then")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    chosen = asked(arguments)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    there = rounds.RESULTS / f"{NAME}.json"
    document = json.loads(there.read_text(encoding="utf-8")) if there.exists() else {"rows": [], "times": []}
    rows = {row["name"]: row for row in document["rows"]}
    times: list[dict[str, Any]] = document["times"]
    files = {
        told["name"]: (path, told)
        for path in sorted(chosen.folder.glob("*.safetensors"))
        if "trace" in (told := read_structure(path).provenance or {})
    }
    files = {name: each for name, each in files.items() if not chosen.arms or name in chosen.arms}
    dense = network().to(memory_format=torch.channels_last)
    if chosen.time:
        x = prepared(imagenet("imagenet-sample-1000.npz", crop=224)[0][: chosen.batch])
        nets = {clock.DENSE: dense, clock.FUSED: clock.finalized(dense, x)}
        for name, (path, told) in files.items():
            if name in rows or chosen.limit:
                nets[name] = clock.finalized(loaded(path, told.get("side")), x)
        write(rows, clock.replaced(times, clock.in_turns(nets, x, count=chosen.rounds)), chosen)
        return
    images, labels = imagenet("imagenet-val-1300.npz", crop=224)
    images, labels = images[: chosen.limit], labels[: chosen.limit]
    before = answers(dense, images)
    for name, (path, told) in files.items():
        if name in rows and not chosen.again:
            print(f"{name}: is there already")
            continue
        rows[name] = judged(path, told, dense, images, labels, before)
        print({key: value for key, value in rows[name].items() if key not in ("taught", "trace")}, flush=True)
        write(rows, times, chosen)


def write(rows: Mapping[str, Any], times: Sequence[Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    """Leave the file behind, unless only some images were looked at."""
    if chosen.limit is None:
        rounds.write(NAME, [*rows.values()], seed=0, times=[*times], images=1300)


def table(document: Mapping[str, Any]) -> str:
    """Accuracy beside operations and times."""
    times = clock.Clock(document["times"])
    named = ["bands", "epochs", "MACs without transforms", "MACs with", *(f"time, {each}" for each in times.heads), "top-1, %", "points (95 % interval)", "agreement, %"]  # fmt: skip
    lines = ["| " + " | ".join(named) + " |", "| :-- |" + " --: |" * (len(named) - 1)]
    lines += [
        "| " + " | ".join([name, "", "1", "1", *times.cells(name), "", "", ""]) + " |"
        for name in (clock.DENSE, clock.FUSED)
    ]
    for row in document["rows"]:
        whole, kept, transforms = row["macs"]
        cells = [
            row["name"],
            f"{row['taught']['epochs']:.0f}",
            f"{1 - (whole - kept) / DENSE_MACS:.3f}",
            f"{1 - (whole - kept - transforms) / DENSE_MACS:.3f}",
            *times.cells(row["name"]),
            *judgement(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    trained = [row["taught"] for row in document["rows"]]
    on = ", ".join(sorted({str(each["hardware"]["accelerator"] or each["hardware"]["cpu"]) for each in trained}))
    with_ = ", ".join(sorted({each["versions"]["torch"] for each in trained}))
    commits = [
        ", ".join(sorted({str(row["commit"]) for row in each})) or "none" for each in (trained, document["rows"])
    ]
    least, most = (pick(each["trained_seconds"] for each in trained) for pick in (min, max))
    note = (
        f"Trained on one {on}, shared with others, {least:,.0f} to {most:,.0f} seconds each, torch {with_}, commit {commits[0]}; accuracy and times on {document['hardware']['cpu']}, "
        f"torch {document['versions']['torch']}, commits {commits[1]} and {times.commits()}. {document['images']:,} validation images, {max(each['images'] for each in trained):,} "
        "others to learn from; multiplications and times relative to the dense network, of the least of all rounds / the median over the rounds."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
