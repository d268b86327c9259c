"""Finalized MobileNetV2s in turns with the dense one, end to end: what three benchmarks share.

Beside them runs the dense network with its depthwise convolutions fused with the pointwise ones beside them, as finalized networks have them: what a cut
is worth in that form is the difference to it, not to the dense network of torch.
"""

import copy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rounds
import torch
from torch import Tensor, nn

import spectrim as st
from spectrim.kernels import build
from spectrim.measure.fused_forms import fuse_where_faster_

DENSE, FUSED = "dense", "dense, fused"
_FILL = 300
"""Milliseconds of calls in a row."""


def finalized(net: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a network as it runs on such a batch; compared with the network first.

    What was not cut is fused too, as a peer may be.
    """
    assert build(), "this benchmark needs the compiled form"
    other = copy.deepcopy(net)
    with torch.no_grad():
        expected = net(x)
        st.finalize_(other, example=x)
        fuse_where_faster_(other, x)
        torch.testing.assert_close(other(x), expected, rtol=1e-2, atol=1e-2)
    return other


def in_turns(nets: Mapping[str, nn.Module], x: Tensor, *, count: int) -> list[dict[str, Any]]:
    """A row for each network, in as many threads as torch has now.

    Args:
        nets: As they run, the dense one under :data:`DENSE`.
        x: The batch.
        count: Rounds.
    """
    with torch.inference_mode():
        took = rounds.times({name: lambda net=net: net(x) for name, net in nets.items()}, rounds=count, fill_ms=_FILL)
    whole, found = took[DENSE], []
    for name, each in took.items():
        ratio = min(each.wall) / min(whole.wall)
        paired = statistics.median(own / other for own, other in zip(each.wall, whole.wall, strict=True))
        setting = {"batch": len(x), "threads": torch.get_num_threads()}
        found.append({"name": name, **setting, **each.to_json(), "time": ratio, "paired": paired, "rounds": count, "commit": rounds.COMMIT})  # fmt: skip
        print(f"{name:<40} {min(each.wall):8.2f} ms  {ratio:.3f} / {paired:.3f}", flush=True)
    return found


def replaced(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Old rows but those that were measured again, and the new ones."""
    again = {(row["name"], row["batch"], row["threads"]) for row in new}
    return [row for row in old if (row["name"], row["batch"], row["threads"]) not in again] + [*new]


class Clock:
    """Rows of :func:`in_turns` for a table.

    Attributes:
        settings: Batch and threads, as they were measured.
        heads: What stands over their columns.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = {(row["name"], row["batch"], row["threads"]): row for row in rows}
        self.settings = sorted({(row["batch"], row["threads"]) for row in rows})
        self.heads = [f"batch {batch}, {threads} thread{'s' * (threads > 1)}" for batch, threads in self.settings]

    def cells(self, name: str) -> list[str]:
        """The ratio of the minima and the median of the ratios in every setting; milliseconds for the dense network."""
        found = [self.rows.get((name, *setting)) for setting in self.settings]
        if name == DENSE:
            return [f"{row['wall_ms']:.1f} ms" if row else "–" for row in found]
        return [f"{row['time']:.2f} / {row['paired']:.2f}" if row else "–" for row in found]

    def commits(self) -> str:
        """With which the rows were measured."""
        return ", ".join(sorted({str(row["commit"]) for row in self.rows.values()}))


def network_of(path: Path, dense: nn.Module) -> nn.Module:
    """The network of a file, from a copy of the dense one, whose weights it has others for."""
    net = st.load_(copy.deepcopy(dense), path).eval().requires_grad_(requires_grad=False)
    return net.to(memory_format=torch.channels_last)
