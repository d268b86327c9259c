"""What cutting channels is worth on a clock: cut networks beside the dense one, in PyTorch and in onnxruntime.

Weights are random and the ranking is ``random``: time depends on widths alone. Before anything is timed, each cut network
is compared with the dense one whose readers of the removed channels are silenced, and onnxruntime with PyTorch.

    python benchmarks/cfdp_speed.py --prepare                                # cut and export, which takes minutes and is not timed
    python benchmarks/cfdp_speed.py                                          # measure what the file lacks
    python benchmarks/cfdp_speed.py --networks resnet56 --settings 1x1 1x8   # some of it: threads x images

Cuts and exported files stand in ``runs/cfdp_speed``; ``benchmarks/results/cfdp_speed.json`` is written after each setting of a
network.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rounds import RESULTS, write
from torch import Tensor, nn
from torch.func import functional_call

import spectrim as st
from spectrim.measure import macs, paired_latency, session_latency
from spectrim.surgery.prune import PruneChannels, silenced
from spectrim.training.exporting import export_onnx
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.resnet_cifar import resnet56
from spectrim.zoo.vgg import vgg16_bn

NAME = "cfdp_speed"
PREPARED = Path(__file__).parents[1] / "runs" / NAME
_TOLERANCE = 1e-3


def torchvision(name: str) -> Callable[[], nn.Module]:
    """A stock network with random weights."""

    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return build


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet56": (resnet56, 32),
    "vgg16_bn": (vgg16_bn, 32),
    "googlenet": (googlenet, 32),
    "resnet50": (torchvision("resnet50"), 224),
    "mobilenet_v2": (torchvision("mobilenet_v2"), 224),
}
SETTINGS = ((1, 1), (2, 1), (1, 8))
"""Threads and images."""
RATES = ("resnet56", "vgg16_bn", "googlenet", "resnet50")


def cuts(name: str) -> dict[str, st.CFDP]:
    """What is measured of a network, by what it is called."""
    papers: dict[str, st.CFDP] = {}
    if name in RATES:
        papers["the paper's widths"] = st.CFDP(keep=name, score="random", round_to=1)
        papers["the paper's rates, multiples of 8"] = st.CFDP(keep=name, score="random")
    return papers | {
        "keep 0.75": st.CFDP(keep=0.75, score="random"),
        "keep 0.5": st.CFDP(keep=0.5, score="random"),
        "keep 0.5, exact": st.CFDP(keep=0.5, score="random", round_to=1),
    }


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The dense network and eight images."""
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    return build().eval(), torch.rand(8, 3, side, side)


@torch.no_grad()
def prepare(name: str) -> None:
    """Cut a network, compare the cuts with what they must compute, and export everything; what is there is kept."""
    dense, x = network(name)
    PREPARED.mkdir(parents=True, exist_ok=True)
    for number, (what, method) in enumerate({"dense": None, **cuts(name)}.items()):
        file, plan = PREPARED / f"{name}-{number}.onnx", None
        if file.exists():
            continue
        model = copy.deepcopy(dense)
        if method is not None:
            plan = st.plan(dense, method, calibration=x[:1])
            plan.apply_(model)
            edits = [edit for edit in plan.edits if isinstance(edit, PruneChannels)]
            expected = functional_call(dense, silenced(dense, edits), (x,))
            assert torch.allclose(model(x), expected, atol=_TOLERANCE * float(expected.abs().max()))
            file.with_suffix(".json").write_text(plan.to_json(), encoding="utf-8")
        export_onnx(model, x[:1], file)  # checks the outputs in onnxruntime
        print(f"{name}, {what}: prepared", flush=True)


def prepared(name: str) -> tuple[dict[str, nn.Module], dict[str, Path], Tensor]:
    """The dense network and its cuts, the exported files, and the images."""
    dense, x = network(name)
    models, files = {"dense": dense}, {}
    for number, what in enumerate(["dense", *cuts(name)]):
        files[what] = PREPARED / f"{name}-{number}.onnx"
        if number:
            plan = st.Plan.from_json(files[what].with_suffix(".json").read_text(encoding="utf-8"))
            models[what] = plan.apply_(copy.deepcopy(dense))
    return models, files, x


def measured(name: str, threads: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of one network at one number of threads and images: the dense one, then its cuts."""
    models, files, x = prepared(name)
    some = x[:batch].contiguous()
    in_torch = paired_latency(models, some, rounds=rounds, threads=threads)
    in_runtime = session_latency(files, [some.numpy()], rounds=rounds, threads=threads)
    return [
        {
            "network": name,
            "cut": what,
            "threads": threads,
            "batch": batch,
            "input": list(x.shape[1:]),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": macs(model, x[:1]),
            "torch_ms": round(in_torch[what].min_ms, 3),
            "torch_speedup": round(in_torch.speedup(what, over="dense"), 3),
            "onnxruntime_ms": round(in_runtime[what].min_ms, 3),
            "onnxruntime_speedup": round(in_runtime.speedup(what, over="dense"), 3),
        }
        for what, model in models.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    every = [f"{threads}x{batch}" for threads, batch in SETTINGS]
    parser.add_argument("--settings", nargs="+", choices=every, default=every)
    parser.add_argument("--prepare", action="store_true", help="cut and export what is missing, and measure nothing")
    parser.add_argument("--rounds", type=int, default=15, help="figures per network (default: %(default)s)")
    chosen = parser.parse_args()
    for name in chosen.networks:
        if chosen.prepare or len(list(PREPARED.glob(f"{name}-*.onnx"))) <= len(cuts(name)):
            prepare(name)
    file = RESULTS / f"{NAME}.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    for name in () if chosen.prepare else chosen.networks:
        for threads, batch in (tuple(map(int, setting.split("x"))) for setting in chosen.settings):
            key = {"network": name, "threads": threads, "batch": batch}
            if any(key.items() <= row.items() for row in rows):
                continue
            rows += measured(name, threads, batch, chosen.rounds)
            places = {
                (n, *setting): place for place, (n, setting) in enumerate((n, s) for n in NETWORKS for s in SETTINGS)
            }
            rows.sort(key=lambda row: places[row["network"], row["threads"], row["batch"]])
            print(*rows[-1:], write(NAME, rows, seed=0, rounds=chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
