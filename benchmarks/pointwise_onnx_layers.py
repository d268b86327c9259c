"""Forms of a pruned pointwise layer in onnxruntime, shape by shape: which one wins against the dense convolution, and where.

    python benchmarks/pointwise_onnx_layers.py [--rounds 15]

Each layer stands between depthwise convolutions, as in MobileNetV2, on one thread; all channels keep the same share. ``flat`` is what
``finalize_(runtime="onnxruntime")`` tries; ``groups`` is what runs in torch; ``separable`` transforms rows, then columns (square order);
``strided`` transforms by convolutions whose stride is the block; ``channels last`` moves the channels first; ``chained`` is a flat layer that
reads (where channels grow) or writes (where they shrink) spectra. Outputs are compared with the masked form before anything is timed.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import rounds
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrim.measure.onnx_forms import between, onnx_times
from spectrim.nn import BandedPointwiseConv2d, FlatBandsConv2d, GroupedBandsConv2d
from spectrim.transforms.dct import dct
from spectrim.transforms.scans import block_basis

SHAPES = (
    (32, 192, 28), (192, 32, 28), (64, 384, 14), (384, 64, 14), (96, 576, 14), (576, 96, 14), (576, 160, 7), (160, 960, 7),
    (960, 160, 7), (960, 320, 7), (320, 1280, 7),
)  # fmt: skip
SHARES = (0.25, 0.5)
FORMS = ("flat", "groups", "separable", "strided", "channels last", "chained")


class Separable(nn.Module):
    """A square of the lowest frequencies, by products over rows and over columns of the whole map at once."""

    def __init__(self, layer: BandedPointwiseConv2d, side: int) -> None:
        super().__init__()
        self.weight = layer.weight[:, :, 0, 0]
        step = layer.geometry.block[0]
        kept = round(float(layer.kept[0]) ** 0.5)
        rows = dct(torch.eye(step, dtype=torch.float64), axis=0)[:kept].float()
        self.register_buffer("there", torch.block_diag(*[rows] * (side // step)))

    def forward(self, x: Tensor) -> Tensor:
        """Of the size that it was made for."""
        low = self.there @ (x @ self.there.T)
        mixed = (self.weight @ low.flatten(2)).unflatten(2, low.shape[2:])
        return self.there.T @ mixed @ self.there


class Strided(nn.Module):
    """Both transforms as convolutions of each channel, with the block as their stride."""

    def __init__(self, layer: BandedPointwiseConv2d) -> None:
        super().__init__()
        self.weight = layer.weight[:, :, 0, 0]
        self.block, kept = layer.geometry.block, int(layer.kept[0])
        self.register_buffer(
            "basis", block_basis(self.block, layer.geometry.positions[:kept]).float().reshape(kept, 1, *self.block)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of any size that blocks divide."""
        n = x.shape[0]
        low = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), self.basis, stride=self.block)
        mixed = self.weight @ low.reshape(n, self.weight.shape[1], -1)
        spread = F.conv_transpose2d(mixed.reshape(-1, *low.shape[1:]), self.basis, stride=self.block)
        return spread.reshape(n, -1, *x.shape[2:])


class ChannelsLast(nn.Module):
    """Blocks of a map whose channels lie last: every product is wide."""

    def __init__(self, layer: BandedPointwiseConv2d) -> None:
        super().__init__()
        self.weight = layer.weight[:, :, 0, 0].T.contiguous()
        self.block, kept = layer.geometry.block, int(layer.kept[0])
        self.register_buffer("basis", block_basis(self.block, layer.geometry.positions[:kept]).float())

    def forward(self, x: Tensor) -> Tensor:
        """Of any size that blocks divide."""
        n, c, height, width = x.shape
        tall, wide = self.block
        cut = x.reshape(n, c, height // tall, tall, width // wide, wide).permute(0, 2, 4, 3, 5, 1)
        y = self.basis.T @ ((self.basis @ cut.reshape(n, -1, tall * wide, c)) @ self.weight)
        y = y.reshape(n, height // tall, width // wide, tall, wide, -1).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(n, -1, height, width)


def cases(inside: int, out: int, side: int, share: float) -> dict[str, tuple[nn.Module, Tensor]]:
    """Every form beside its neighbours, with its input."""
    block = (7, 7)
    kept = max(1, round(share * 49))
    square = max(1, round((share * 49) ** 0.5)) ** 2
    x = torch.randn(1, inside, side, side)
    weight = torch.randn(out, inside, 1, 1) / inside**0.5

    def masked(order: str, count: int) -> BandedPointwiseConv2d:
        layer = BandedPointwiseConv2d(inside, out, block, order=order, kept=[count] * inside, bias=False).eval()
        layer.weight.copy_(weight)
        return layer

    zigzag, squares = masked("zigzag", kept), masked("square", square)
    dense = nn.Conv2d(inside, out, 1, bias=False)
    dense.weight.copy_(weight)
    counts = zigzag.kept.long()
    forms = {
        "flat": FlatBandsConv2d.of(zigzag.geometry, weight, None, counts),
        "groups": GroupedBandsConv2d.of(zigzag.geometry, weight, None, counts),
        "separable": Separable(squares, side),
        "strided": Strided(zigzag),
        "channels last": ChannelsLast(zigzag),
    }
    for name, form in forms.items():
        expected = squares(x) if name == "separable" else zigzag(x)
        torch.testing.assert_close(form(x), expected, rtol=1e-3, atol=1e-3)
    found = {name: (between(form, (inside, out)), x) for name, form in ({"dense": dense} | forms).items()}
    if inside < out:
        reader = FlatBandsConv2d.of(zigzag.geometry, weight, None, counts, reads="spectra")
        found["chained"] = (between(reader, (None, out)), torch.randn(1, inside, side // 7, side // 7, kept))
        found["dense, narrow side free"] = (between(dense, (None, out)), x)
    else:
        writer = FlatBandsConv2d.of(zigzag.geometry, weight, None, counts, writes=kept)
        found["chained"] = (between(writer, (inside, None)), x)
        found["dense, narrow side free"] = (between(dense, (inside, None)), x)
    return found


@torch.no_grad()
def main() -> None:
    chosen = rounds.options(__doc__.splitlines()[0], rounds=15)
    found = []
    for (inside, out, side), share in itertools.product(SHAPES, SHARES):
        forms = cases(inside, out, side, share)
        took = onnx_times([form for form, _ in forms.values()], [x for _, x in forms.values()], rounds=chosen.rounds)
        row = {"in": inside, "out": out, "side": side, "share": share, "ms": dict(zip(forms, took, strict=True))}
        found.append(row)
        print(row, flush=True)
        rounds.write("pointwise_onnx_layers", found, seed=chosen.seed, rounds=chosen.rounds)


def table(document: Mapping[str, Any]) -> str:
    """How many times faster than dense each form is."""
    lines = ["| layer | kept | dense, µs | " + " | ".join(FORMS) + " |", "| :-- |" + " --: |" * (2 + len(FORMS))]
    for row in document["rows"]:
        ms = row["ms"]
        base = {name: ms["dense, narrow side free" if name == "chained" else "dense"] for name in FORMS}
        cells = [f"{base[name] / ms[name]:.2f}" for name in FORMS]
        cells = [f"**{cell}**" if float(cell) > 1 else cell for cell in cells]
        shape = f"{row['in']} → {row['out']} @ {row['side']}"
        lines.append(f"| {shape} | {row['share']} | {1000 * ms['dense']:.0f} | {' | '.join(cells)} |")
    hardware, versions = document["hardware"], document["versions"]
    note = (
        f"{hardware['cpu']}, onnxruntime {versions['onnxruntime']}, commit {document['commit']}; times faster than the dense convolution; blocks of 7 x 7, "
        f"batch 1, one thread, between depthwise convolutions (chained: on the wide side), minimum over {document['rounds']} interleaved rounds."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
