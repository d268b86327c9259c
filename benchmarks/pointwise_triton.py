"""The kernels in Triton on a CUDA device: pointwise layers of MobileNetV2 and the whole network, dense and pruned in the frequency domain.

    python benchmarks/pointwise_triton.py --warm                    # compile everything and compare what it computes; beside other work
    python benchmarks/pointwise_triton.py --out pointwise_triton.json

Layers: channels_last, in single precision without TensorFloat-32 and in half precision; dense is torch's convolution; pruned is the finalized layer, in plain torch and in Triton, each channel with a
band of its own about the mean; blocks of 7 x 7. Networks: MobileNetV2 with the bands of arms of ``pointwise_taught.py``, norms folded, as calls of torch and as one CUDA graph. Needs ``SPECTRIM_DATA`` for the networks. The
outputs are compared before anything is timed. Times are medians of calls between two events. What does not fit into ``--seconds`` is left out and counted. ``tilings``: the same layers with
the work cut up otherwise, for who wants to choose.
"""

import argparse
import copy
import functools
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rounds
import torch
from pointwise_layers import SHAPES, SOME, pruned
from torch import Tensor, nn

import spectrim as st
from spectrim import kernels
from spectrim.kernels import banded

NAME = "pointwise_triton"
STARTED = time.perf_counter()
DTYPES = {"float32": torch.float32, "float16": torch.float16}
WITHIN = {"float32": 1e-3, "float16": 3e-2}
"""How far the largest output may be off, relative to the largest."""
SHARES, IMAGES, NETWORKS = (0.5, 0.3), (32, 1, 128), ("measured .5", "uniform .5")
USUAL = "as it is"
VARIANTS: dict[str, dict[str, Any]] = {
    USUAL: {},
    "plain products": {"precision": "ieee"},
    "transforms of 4 blocks": {"blocks": 4},
    "transforms of 2 blocks": {"blocks": 2},
    "transforms of 64 channels": {"blocks": 2, "parts": 64},
    "8 warps": {"warps": (8, 8)},
    "products of 128 rows": {"high": 128},
    "products of 32 rows": {"high": 32, "outer": 32},
}
"""What is replaced in the tiling."""
Case = Callable[[], Tensor]


class Clock:
    """Milliseconds of calls on a device; on a processor for trying the program."""

    def __init__(self, device: torch.device, *, most: int, fill_ms: float) -> None:
        self.gpu, self.most, self.fill = device.type == "cuda", most, fill_ms

    def __call__(self, case: Case) -> float:
        """The median over enough calls to fill some time."""
        for _ in range(3 if self.gpu else 1):
            case()
        first = self._once(case)
        count = max(5 if self.gpu else 1, min(self.most, int(self.fill / max(first, 1e-3))))
        return round(statistics.median(self._once(case) for _ in range(count)), 4)

    def _once(self, case: Case) -> float:
        if not self.gpu:
            started = time.perf_counter()
            case()
            return 1000 * (time.perf_counter() - started)
        before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        before.record()
        case()
        behind.record()
        behind.synchronize()
        return float(before.elapsed_time(behind))


@contextmanager
def in_plain_torch() -> Iterator[None]:
    """Finalized layers do without Triton meanwhile."""
    loaded, banded.triton_loaded = banded.triton_loaded, lambda: False
    try:
        yield
    finally:
        banded.triton_loaded = loaded


def cut_up(case: Case, changes: Mapping[str, Any]) -> Case:
    """The same call with another tiling of the kernels."""
    from spectrim.kernels import banded_triton

    usual = banded_triton.tiling

    def call() -> Tensor:
        banded_triton.tiling = lambda *a: usual(*a)._replace(**changes)
        try:
            return case()
        finally:
            banded_triton.tiling = usual

    return call


def plainly(case: Case) -> Case:
    """The same call in plain torch."""

    def call() -> Tensor:
        with in_plain_torch():
            return case()

    return call


def off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found.float() - wanted).abs().max() / wanted.abs().max())


def graphed(case: Case) -> Case:
    """All kernels of a call as one graph, which is played again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            case()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = case()

    def call(_reads: Case = case) -> Tensor:  # which holds the weights and the images that the graph goes on reading
        graph.replay()
        return y

    return call


class Bench:
    """What has been found so far, and how much time is left."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.device = chosen, torch.device(chosen.device)
        self.gpu = self.device.type == "cuda"
        self.clock = Clock(self.device, most=chosen.most, fill_ms=chosen.fill)
        self.rows: list[dict[str, Any]] = []
        self.left: list[str] = []

    def row(self, what: Mapping[str, Any], make: Callable[[], tuple[Mapping[str, Case], Tensor]]) -> None:
        """Compare and time the cases of one row; whatever happens, the next row comes."""
        name = ", ".join(map(str, what.values()))
        if time.perf_counter() - STARTED > self.chosen.seconds:
            self.left.append(name)
            return
        started, found = time.perf_counter(), dict(what)
        try:
            with torch.no_grad():
                cases, wanted = make()
                found["off"] = {case: off(call(), wanted) for case, call in cases.items() if case != "dense"}
                worst = max(found["off"].values())
                if not worst < WITHIN[str(what["dtype"])]:
                    found["failed"] = f"the outputs differ by {worst:.2g}"
                elif not self.chosen.warm:
                    found["ms"] = {case: self.clock(call) for case, call in cases.items()}
                    dense = found["ms"].get("dense")
                    found["ratios"] = (
                        {case: round(dense / each, 3) for case, each in found["ms"].items()} if dense else {}
                    )
        except Exception as error:  # noqa: BLE001 - the next row may work
            found["failed"] = f"{type(error).__name__}: {error}"[:500]
            traceback.print_exc()
        self.rows.append(found)
        told = found.get("failed") or found.get("ms") or found["off"]
        print(f"{name}: {told} ({time.perf_counter() - started:.1f} s)", flush=True)

    def layer(self, shape: Sequence[int], images: int, dtype: str, share: float) -> None:
        """One layer, dense and in both forms."""

        def make() -> tuple[Mapping[str, Case], Tensor]:
            conv, form, x, wanted = self._made(shape, images, dtype, share)
            return {"dense": lambda: conv(x)} | self._forms(lambda: form(x)), wanted

        self.row({"part": "layers", "shape": list(shape), "images": images, "dtype": dtype, "share": share}, make)

    def tilings(self, shape: Sequence[int], images: int, dtype: str) -> None:
        """One layer with the work cut up in several ways."""

        def make() -> tuple[Mapping[str, Case], Tensor]:
            conv, form, x, wanted = self._made(shape, images, dtype, SHARES[0])
            return {"dense": lambda: conv(x)} | {
                name: cut_up(lambda: form(x), VARIANTS[name]) for name in VARIANTS
            }, wanted

        self.row({"part": "tilings", "shape": list(shape), "images": images, "dtype": dtype, "share": SHARES[0]}, make)

    def network(self, name: str, images: int, dtype: str, *, graph: bool) -> None:
        """The whole network with the bands of an arm."""

        def make() -> tuple[Mapping[str, Case], Tensor]:
            dense, net, sample = self._networks(name)
            x = sample[torch.arange(images) % len(sample)].to(self.device).contiguous(memory_format=torch.channels_last)
            wanted = net(x)
            whole, form = (copy.deepcopy(each).to(DTYPES[dtype]) for each in (dense, st.finalize_(copy.deepcopy(net))))
            x = x.to(DTYPES[dtype])
            cases = {"dense": lambda: whole(x)} | self._forms(lambda: form(x))
            return {key: graphed(case) if graph and self.gpu else case for key, case in cases.items()}, wanted

        self.row({"part": "networks", "network": name, "images": images, "dtype": dtype, "graph": graph}, make)

    def _forms(self, case: Case) -> dict[str, Case]:
        return {"plain": plainly(case)} | ({"triton": case} if self.gpu else {})

    def _made(
        self, shape: Sequence[int], images: int, dtype: str, share: float
    ) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
        """The dense layer, the finalized one, what they read, and what they are to write."""
        inside, out, side = shape
        torch.manual_seed(0)
        x = torch.randn(images, inside, side, side, device=self.device).contiguous(memory_format=torch.channels_last)
        masked, form = (each.to(self.device) for each in pruned(nn.Conv2d(inside, out, 1), share, "spread"))
        wanted = masked(x)
        conv = nn.Conv2d(inside, out, 1).to(self.device, DTYPES[dtype], memory_format=torch.channels_last)
        return conv, form.to(DTYPES[dtype]), x.to(DTYPES[dtype]), wanted

    @functools.cache  # noqa: B019 - there is one of these
    def _networks(self, name: str) -> tuple[nn.Module, nn.Module, Tensor]:
        """The dense network, the one with bands, and images."""
        from pointwise_mobilenetv2 import network, prepared
        from pointwise_taught import student
        from realdata import imagenet

        dense, sample = network(), imagenet("imagenet-sample-1000.npz", crop=224)[0]
        net, _ = student(name, dense, sample)
        place = {"device": self.device, "memory_format": torch.channels_last}
        return dense.to(**place), net.eval().to(**place), prepared(sample[:16])


def jobs(bench: Bench) -> Iterator[Callable[[], None]]:
    """All there is to do, the most wanted first."""
    chosen = bench.chosen
    for images, name, dtype, graph in itertools.product((32, 128), NETWORKS, DTYPES, (False, True)):
        if not chosen.no_networks:
            yield lambda w=(name, images, dtype), g=graph: bench.network(*w, graph=g)
    others = tuple(each for each in SHAPES if each not in SOME)
    for shapes, share in itertools.product((SOME, others), SHARES):
        for images, dtype, shape in itertools.product(IMAGES, DTYPES, shapes):
            yield lambda w=(shape, images, dtype, share): bench.layer(*w)
        if bench.gpu and shapes is SOME and share == SHARES[0]:
            for dtype, shape in itertools.product(DTYPES, shapes):
                yield lambda w=(shape, IMAGES[0], dtype): bench.tilings(*w)


def asked(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm", action="store_true", help="compile and compare, time nothing")
    parser.add_argument("--seconds", type=float, default=60.0, help="nothing begins after these (default: %(default)s)")
    parser.add_argument("--out", type=Path, help=f"a file for the result (default: benchmarks/results/{NAME}.json)")
    parser.add_argument("--no-networks", action="store_true", help="layers alone, for which no data is needed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--fill", type=float, default=10.0, help="milliseconds of calls for a median (default: %(default)s)"
    )
    parser.add_argument("--most", type=int, default=50, help="calls for a median, at most (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing failed."""
    chosen = asked(arguments)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    bench = Bench(chosen)
    if bench.gpu:
        assert kernels.load_triton(), "this benchmark is about them"
    for job in jobs(bench):
        job()
    failed = [row for row in bench.rows if "failed" in row]
    took = round(time.perf_counter() - STARTED, 1)
    if not chosen.warm:
        rounds.write(NAME, bench.rows, seed=0, out=chosen.out, left_out=bench.left, seconds=took)
    print(f"{len(bench.rows)} rows, {len(failed)} failed, {len(bench.left)} left out, {took} s", flush=True)
    return int(bool(failed))


def table(document: Mapping[str, Any]) -> str:
    """The networks, then the layers: what dense takes, and how many times faster the pruned form is; then the other tilings."""

    def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return ["| " + " | ".join(each) + " |" for each in (head, [":--", *["--:"] * (len(head) - 1)], *rows)]

    def ratios(row: Mapping[str, Any] | None) -> str:
        if row is None:
            return "–"
        if "ratios" not in row:
            return "failed"
        return " / ".join(f"{row['ratios'][form]:.2f}" for form in ("triton", "plain") if form in row["ratios"])

    def took(row: Mapping[str, Any]) -> str:
        return f"{row['ms']['dense']:.2f}" if "ms" in row else "–"

    first = [
        [f"{row['network']}, {row['images']} images, {row['dtype']}{', graph' * row['graph']}", took(row), ratios(row)]
        for row in document["rows"]
        if row["part"] == "networks"
    ]
    layers = [row for row in document["rows"] if row["part"] == "layers"]
    found = {(tuple(row["shape"]), row["images"], row["dtype"], row["share"]): row for row in layers}
    settings = sorted({key[1:] for key in found}, key=lambda each: (each[1], each[2], each[0]))
    second = [
        ["{} → {} @ {}".format(*shape), *(ratios(found.get((shape, *setting))) for setting in settings)]
        for shape in dict.fromkeys(key[0] for key in found)
    ]
    heads = [f"{images} image{'s' * (images > 1)}, {dtype}, keep {share}" for images, dtype, share in settings]
    cuts = [row for row in document["rows"] if row["part"] == "tilings" and "ms" in row]
    ways = [each for each in (cuts[0]["ms"] if cuts else {}) if each not in ("dense", USUAL)]
    third = [
        [
            "{} → {} @ {}, {}".format(*row["shape"], row["dtype"]),
            *(f"{row['ms'][each] / row['ms'][USUAL]:.2f}" for each in ways),
        ]
        for row in cuts
    ]
    on = document["hardware"]["accelerator"] or document["hardware"]["cpu"]
    note = (
        f"{on}, torch {document['versions']['torch']}, commit {document['commit']}; how many times faster than dense the pruned form is, in Triton / in plain "
        f"torch; medians of calls between two events, channels_last, TensorFloat-32 off; {len(document['left_out'])} rows left out for lack of time."
    )
    parts = [lines(["network", "dense, ms", "pruned"], first), lines(["layer", *heads], second)]
    if third:
        note += f" Last: times of the layers with {cuts[0]['images']} images and the work cut up otherwise, relative to how it was cut up then."
        parts.append(lines(["layer", *ways], third))
    return "\n".join(line for part in parts for line in [*part, ""]) + "\n" + note


if __name__ == "__main__":
    raise SystemExit(main())
