"""A result as a run writes it, small enough to read; tests import nothing of the room that writes it."""

import math
from typing import Any


def result(layers: int = 4) -> dict[str, Any]:
    sites = [f"layer{place}.conv.weight" for place in range(layers)]
    steps = list(range(0, 401, 20))

    def curve(start: float) -> dict[str, list[float]]:
        return {
            "steps": steps[1:],
            "loss": [start * math.exp(-step / 100) for step in steps[1:]],
            "lr": [0.1 * (1 - step / 400) for step in steps[1:]],
        }

    return {
        "format": 1,
        "model": {"name": "lenet5", "architecture": "LeNet5", "weights": None},
        "data": {
            "name": "mnist:data/mnist",
            "task": "classification",
            "train": 60_000,
            "test": 10_000,
            "classes": 10,
            "input": [1, 28, 28],
        },
        "method": {"name": "frequency-regularization", "keep": 0.01, "order": "l1-lex", "compat": None},
        "where": ["*", "!fc"],
        "recipe": {"dense": {"epochs": 3, "lr": 0.1}, "compressed": {"epochs": 5, "nesterov": True}},
        "rounds": 1,
        "start": "none",
        "seed": 7,
        "precision": "no",
        "dtype": "float16",
        "metric": {"name": "accuracy"},
        "dense": {"metric": 0.9912, "parameters": 429_510, "bytes": 1_718_040, "macs": 2_156_660, "latency_ms": 0.213},
        "compressed": {
            "metric": 0.9803,
            "numbers": 1_116,
            "coded_numbers": 33 * layers,
            "bytes": {"payload": 66 * layers, "plain": 684, "header": 420, "total": 66 * layers + 684 + 420},
            "macs": 2_156_660,
            "latency_ms": 0.214,
        },
        "plans": [
            {
                "method": "FrequencyRegularization(keep=0.01)",
                "model": "LeNet5",
                "edits": [{"edit": "parametrize", "path": site, "tensor": "weight"} for site in sites],
                "skipped": [{"site": "fc.weight", "reason": "left dense by where"}],
                "before": 429_510,
                "after": 1_116,
            }
        ],
        "layers": [{"site": site, "shape": [64, 64, 3, 3], "numel": 36_864, "kept": 33} for site in sites],
        "history": {
            "dense": curve(2.3),
            "compressed": curve(1.1),
            "kept": {
                "steps": steps,
                "counts": {site: [max(33, round(36_864 * math.exp(-step / 40))) for step in steps] for site in sites},
            },
            "evaluations": [
                {"phase": phase, "step": step, "metric": 0.9 + step / 10_000}
                for phase in ("dense", "compressed")
                for step in (200, 400)
            ],
            "seconds": {"dense": 61.2, "compressed": 95.7},
        },
        "spectra": [
            {
                "site": site,
                "numel": 36_864,
                "kept": 33,
                "counts": [1, 33, 1_000, 36_864],
                "dense": [0.0, 0.01, 0.1, 1.0],
                "compressed": [0.2, 1.0, 1.0, 1.0],
            }
            for site in sites
        ],
        "files": {"artifact": "model.safetensors", "report": "report.html"},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": {"cpu": "A processor", "cores": 2, "threads": 2, "accelerator": None},
    }
