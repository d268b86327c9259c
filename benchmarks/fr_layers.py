"""The layers of Frequency Regularization beside those of the authors' release, frereg 0.1.0, and beside plain ones.

Every distinct convolution of the U-Net and of the VGG-19, transposed ones included: construction, forward, and forward
with backward, with all, a tenth, a hundredth and 33 of the coefficients kept. The release's layers decode the whole
spectrum whatever is kept and ignore their own mask in the forward pass, so they get spectra that are zero behind the
cut, and one measurement of them stands for all counts. The numbers of a network are sums over its convolutions.

    python benchmarks/fr_layers.py          # writes benchmarks/results/fr_layers.json
"""

import gc
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator

import frereg
import torch
from frereg._dct import idct_4d
from rounds import Times, once, options, times, write
from torch import Tensor, nn

from spectrim import FrequencyRegularization, anneal_, compress_
from spectrim.nn import SpectralCodec
from spectrim.truncation import Truncation
from spectrim.zoo.unet import unet
from spectrim.zoo.vgg import vgg19

KEEPS = {"1": {"keep": 1.0}, "0.1": {"keep": 0.1}, "0.01": {"keep": 0.01}, "33 numbers": {"keep": 1e-9, "floor": 33}}
Layer = tuple[str, int, int, int]
"""Kind, channels in, channels out, side of the kernel."""


def main() -> None:
    chosen = options("Layers of Frequency Regularization beside frereg's and plain ones.", rounds=3)
    networks = {"U-Net": Counter(layers_of(unet())), "VGG-19": Counter(layers_of(vgg19()))}
    rows = []
    for layer in sorted(set().union(*networks.values()), key=lambda layer: (math.prod(shape_of(layer)), layer)):
        row = measured(layer, rounds=chosen.rounds)
        row["counts"] = {name: counts[layer] for name, counts in networks.items()}
        rows.append(row)
        print(row["layer"], {name: case["cpu_ms"] for name, case in row["construction"].items()}, flush=True)
        print(" ", {name: case["cpu_ms"] for name, case in row["forward"].items()}, flush=True)
    more = {"networks": {name: summed(rows, name) for name in networks}, "unet": whole_unet(chosen.rounds)}
    print(more)
    print(write("fr_layers", rows, seed=chosen.seed, rounds=chosen.rounds, peer="frereg 0.1.0", **more))


def layers_of(network: nn.Module) -> Iterator[Layer]:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield type(module).__name__, module.in_channels, module.out_channels, module.kernel_size[0]


def shape_of(layer: Layer) -> tuple[int, int, int, int]:
    kind, inside, outside, side = layer
    return (outside, inside, side, side) if kind == "Conv2d" else (inside, outside, side, side)


def built(library: object, layer: Layer) -> nn.Module:
    """A layer of ``torch.nn`` or of ``frereg``: they take the same arguments."""
    kind, inside, outside, side = layer
    if kind == "Conv2d":
        return getattr(library, kind)(inside, outside, side, padding=side // 2, bias=False)
    return getattr(library, kind)(inside, outside, side, stride=side, bias=False)


def measured(layer: Layer, *, rounds: int) -> dict[str, object]:
    gc.collect()  # so that no basis is left of the layer before
    shape = shape_of(layer)
    numel = math.prod(shape)
    images = torch.randn(1, layer[1], 8, 8)
    peer, peer_took = once(lambda: built(frereg, layer))
    plain = built(nn, layer)
    construct = times(
        {
            "plain": lambda: built(nn, layer),
            "codec": lambda: SpectralCodec(shape, truncation=Truncation(numel, min(33, numel))),
        },
        rounds=rounds,
    )
    ours: dict[str, nn.Module] = {}
    for name, keep in KEEPS.items():
        ours[name] = compress_(built(nn, layer), FrequencyRegularization(schedule="at-once", **keep))
        check_equal(peer, ours[name], images)
    forward = {"frereg": peer, "plain": plain, **ours}
    row: dict[str, object] = {
        "layer": f"{layer[0]} {layer[1]} to {layer[2]}, {layer[3]}x{layer[3]}",
        "shape": list(shape),
        "construction": {"frereg": peer_took} | {name: each.to_json() for name, each in construct.items()},
        "forward": in_turns({name: forward_of(module, images) for name, module in forward.items()}, rounds),
        "forward_backward": in_turns({name: training_of(module, images) for name, module in forward.items()}, rounds),
        "decode": in_turns(
            {"frereg": lambda: idct_4d(peer.weight)}
            | {name: lambda module=module: module.weight for name, module in ours.items()},
            rounds,
        ),
        "stored_bytes_per_weight": {name: round(stored(module) / numel, 2) for name, module in forward.items()},
        "peak_forward_bytes_per_weight": {
            name: round(peak(module, images) / numel, 2) for name, module in forward.items()
        },
    }
    return row


def in_turns(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    return {name: each.to_json() for name, each in times(cases, rounds=rounds, fill_ms=2).items()}


def check_equal(peer: nn.Module, ours: nn.Module, images: Tensor) -> None:
    """The same spectrum, zero behind the cut, gives the same output in both libraries."""
    stack = ours.parametrizations.weight
    with torch.no_grad():
        spectrum = stack[0].unpacked(*stack[0].packed(torch.randn_like(stack.original)))
        stack.original.copy_(spectrum)
        peer.weight.copy_(spectrum)
        output = ours(images)
        torch.testing.assert_close(output, peer(images), atol=1e-4 * output.abs().max().item(), rtol=0)


def forward_of(module: nn.Module, images: Tensor) -> Callable[[], object]:
    return lambda: module(images)


def training_of(module: nn.Module, images: Tensor) -> Callable[[], object]:
    def run() -> None:
        module.zero_grad()
        module(images).sum().backward()

    return run


def stored(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])


def peak(module: nn.Module, images: Tensor) -> int:
    """The most bytes that torch's allocator holds at once for a forward pass, beyond what was there before."""
    module(images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        module(images)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def summed(rows: list[dict], network: str) -> dict[str, dict[str, float]]:
    """Processor milliseconds of all convolutions of a network, by what was done and by whom."""
    return {
        what: {
            name: round(sum(row["counts"][network] * row[what][name]["cpu_ms"] for row in rows), 1)
            for name in rows[0][what]
        }
        for what in ("construction", "decode", "forward", "forward_backward")
    }


def whole_unet(rounds: int) -> dict[str, object]:
    """Construction of the U-Net: its ordinary layers, initialised, and what coding them adds."""
    found = {}
    for name, settings in (
        ("33 numbers, at once", {**KEEPS["33 numbers"], "schedule": "at-once"}),
        ("keep 0.01, start of annealing", {"keep": 0.01}),
    ):
        plain, coding = Times(), Times()
        for _ in range(rounds):
            network, took = once(unet)
            plain.cpu.append(took["cpu_ms"])
            plain.wall.append(took["wall_ms"])
            coded, took = once(lambda network=network, settings=settings: compress_(
                network, FrequencyRegularization(**settings)
            ))  # fmt: skip
            coding.cpu.append(took["cpu_ms"])
            coding.wall.append(took["wall_ms"])
        stored_start = stored(coded)
        anneal_(coded, 1.0)
        found[name] = {
            "plain": plain.to_json(),
            "coding": coding.to_json(),
            "stored_bytes_per_weight": {
                "start": round(stored_start / 31_024_960, 3),
                "end": round(stored(coded) / 31_024_960, 3),
            },
        }
    return found


if __name__ == "__main__":
    main()
