"""What the inference forms of a strongly truncated UNet cost: dense weights, every layer factored, the measured choice.

The network is the published one, 33 coefficients in each of its 23 layers, with random weights: time and operations do
not depend on their values. Outputs are compared before anything is timed.

    python benchmarks/fr_inference.py            # writes benchmarks/results/fr_inference.json
"""

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
from rounds import options, times, write
from torch import nn

from spectrim import FrequencyRegularization, compress_, finalize_
from spectrim.measure import macs
from spectrim.nn import FactoredConv
from spectrim.surgery import coded
from spectrim.surgery.edits import replace_module_
from spectrim.zoo.unet import unet

SIZE = (1, 3, 192, 288)  # a fifth of the published 640 x 959, rounded to what the UNet halves four times


def main() -> None:
    chosen = options("The inference forms of a UNet at 759 numbers.", rounds=7)
    x = torch.randn(SIZE)
    network = compress_(unet().eval(), FrequencyRegularization(keep=1e-9, floor=33, schedule="at-once"))
    numbers = sum(entry.codec.numbers() for entry in coded(network))
    start = time.perf_counter()
    forms = {
        "dense weights": finalize_(copy.deepcopy(network)),
        "every layer factored": factored(copy.deepcopy(network)),
        "measured choice": finalize_(copy.deepcopy(network), example=x),
    }
    print(f"prepared in {time.perf_counter() - start:.0f} s", flush=True)
    with torch.no_grad():
        outputs = {name: form(x) for name, form in forms.items()}
    scale = outputs["dense weights"].abs().max()
    differences = {
        name: ((each - outputs["dense weights"]).abs().max() / scale).item() for name, each in outputs.items()
    }
    assert max(differences.values()) < 1e-3, differences
    with torch.no_grad():
        measured = times({name: lambda f=form: f(x) for name, form in forms.items()}, rounds=chosen.rounds, fill_ms=0)
    rows: list[dict[str, Any]] = []
    for name, form in forms.items():
        rows.append(
            {
                "form": name,
                "factored_layers": sum(isinstance(module, FactoredConv) for module in form.modules()),
                "gmacs": round(macs(form, x) / 1e9, 3),
                "relative_difference": differences[name],
                **measured[name].to_json(),
                "speedup": round(min(measured["dense weights"].wall) / min(measured[name].wall), 3),
            }
        )
        print(rows[-1], flush=True)
    more = {"numbers": numbers, "input": list(SIZE), "threads": chosen.threads, "rounds": chosen.rounds}
    print(write("fr_inference", rows, seed=chosen.seed, **more))


def factored(network: nn.Module) -> nn.Module:
    """Every layer that has a factored form in that form, faster or not."""
    for entry in coded(network):
        other = entry.codec.alternative(entry.module, entry.code)
        if other is not None:
            replace_module_(network, entry.module, other.eval())
    return finalize_(network)


def table(document: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| form | GMACs | ms | speed-up |", "| :-- | --: | --: | --: |"]
    lines += [
        f"| {row['form']} ({row['factored_layers']} of 23 layers factored) | {row['gmacs']:.2f} | {row['wall_ms']:,.0f} "
        f"| {row['speedup']:.2f} |"
        for row in document["rows"]
    ]
    size = " x ".join(str(side) for side in document["input"])
    note = (
        f"{document['hardware'].get('cpu', 'unknown processor')}, {document['threads']} thread(s), input {size}, "
        f"torch {document['versions'].get('torch')}, commit {document['commit']}."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
