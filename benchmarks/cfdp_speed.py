"""What cutting channels is worth on a clock: cut networks beside the dense one, in PyTorch and in onnxruntime.

Weights are random and the ranking is ``random``: time depends on widths alone. Before anything is timed, each cut network
is compared with the dense one whose readers of the removed channels are silenced, and onnxruntime with PyTorch.

    python benchmarks/cfdp_speed.py                        # writes benchmarks/results/cfdp_speed.json
    python benchmarks/cfdp_speed.py --networks resnet56    # one network, for a look
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rounds import write
from torch import Tensor, nn
from torch.func import functional_call

import spectrim as st
from spectrim.measure import macs, paired_latency, session_latency
from spectrim.surgery.prune import PruneChannels, silenced
from spectrim.training.exporting import export_onnx
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.resnet_cifar import resnet56
from spectrim.zoo.vgg import vgg16_bn

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
    papers = {
        "the paper's widths": st.CFDP(keep=name, score="random", round_to=1),
        "the paper's rates, multiples of 8": st.CFDP(keep=name, score="random"),
    }
    return (papers if name in RATES else {}) | {
        "keep 0.75": st.CFDP(keep=0.75, score="random"),
        "keep 0.5": st.CFDP(keep=0.5, score="random"),
        "keep 0.5, exact": st.CFDP(keep=0.5, score="random", round_to=1),
    }


@torch.no_grad()
def cut(dense: nn.Module, method: st.CFDP, x: Tensor) -> nn.Module:
    """A cut copy that was compared with what it must compute."""
    plan = st.plan(dense, method, calibration=x)
    model = plan.apply_(copy.deepcopy(dense))
    edits = [edit for edit in plan.edits if isinstance(edit, PruneChannels)]
    expected = functional_call(dense, silenced(dense, edits), (x,))
    assert torch.allclose(model(x), expected, atol=_TOLERANCE * float(expected.abs().max()))
    return model


def measured(name: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of one network: at each number of threads and images the dense one, then its cuts."""
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    dense = build().eval()
    x = torch.rand(8, 3, side, side)
    models = {"dense": dense} | {what: cut(dense, method, x[:1]) for what, method in cuts(name).items()}
    facts = {
        what: {"parameters": sum(parameter.numel() for parameter in model.parameters()), "macs": macs(model, x[:1])}
        for what, model in models.items()
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {what: Path(folder) / f"{number}.onnx" for number, what in enumerate(models)}
        for what, model in models.items():
            export_onnx(copy.deepcopy(model), x[:1], files[what])  # checks the outputs in onnxruntime
        for threads, batch in SETTINGS:
            some = x[:batch]
            in_torch = paired_latency(models, some, rounds=rounds, threads=threads)
            in_runtime = session_latency(files, [some.numpy()], rounds=rounds, threads=threads)
            for what in models:
                rows.append(
                    {
                        "network": name,
                        "cut": what,
                        "threads": threads,
                        "batch": batch,
                        "input": [3, side, side],
                        **facts[what],
                        "torch_ms": round(in_torch[what].min_ms, 3),
                        "torch_speedup": round(in_torch.speedup(what, over="dense"), 3),
                        "onnxruntime_ms": round(in_runtime[what].min_ms, 3),
                        "onnxruntime_speedup": round(in_runtime.speedup(what, over="dense"), 3),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=15, help="figures per network (default: %(default)s)")
    chosen = parser.parse_args()
    rows = [row for name in chosen.networks for row in measured(name, chosen.rounds)]
    if chosen.networks == list(NETWORKS):
        print(write("cfdp_speed", rows, seed=0, rounds=chosen.rounds))


if __name__ == "__main__":
    main()
