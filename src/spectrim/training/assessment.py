"""A network with the numbers of a file: how good it is, and how fast."""

from pathlib import Path
from typing import Any

import torch

import spectrim
from spectrim.measure import macs, paired_latency
from spectrim.measure.choice import Choice
from spectrim.measure.clock import threads_set
from spectrim.measure.without_transforms import macs_without_transforms
from spectrim.training.clocked import made_ready_
from spectrim.training.metric import NAMES, evaluate
from spectrim.training.models import Fit, build, example_for
from spectrim.training.setting import accelerator_for, fit_to, preprocessing
from spectrim.training.source import Normalization
from spectrim.training.sources import open_source
from spectrim.training.weights import load_file_


def assess(
    model: str,
    file: Path,
    data: str,
    *,
    image_size: int | None = None,
    normalize: Normalization = "data",
    precision: str = "no",
    batch_size: int = 256,
    cpu: bool = False,
) -> dict[str, Any]:
    """The metric of a network on the test images of a source.

    Args:
        model: Name of the network.
        file: An artifact, or a file of weights.
        data: Name of the source.
        image_size, normalize, precision, batch_size, cpu: As for a job.

    Returns:
        ``metric`` (its name), ``value`` in [0, 1] and ``images`` (how many).
    """
    accelerator = accelerator_for(precision, cpu=cpu)
    source = open_source(data, image_size=image_size)
    network = load_file_(build(model, fit_to(source)), file)
    value = evaluate(
        network.to(accelerator.device),
        source.test,
        task=source.task,
        num_classes=source.num_classes,
        prepare=preprocessing(network, source, normalize),
        accelerator=accelerator,
        batch_size=batch_size,
    )
    return {"metric": NAMES[source.task], "value": value, "images": len(source.test)}


def compare_speed(
    model: str,
    file: Path,
    fit: Fit,
    *,
    batch_size: int = 1,
    rounds: int = 30,
    threads: int | None = None,
    cpu: bool = False,
    restore: bool = False,
) -> dict[str, dict[str, Any]]:
    """Times and operations of a network with fresh weights, with a decoded artifact, and with a finalized one.

    Args:
        model: Name of the network.
        file: An artifact.
        fit: The images that it is for.
        batch_size: Images in the batch.
        rounds, threads: As for :func:`spectrim.measure.paired_latency`; forms are chosen with as many threads.
        cpu: Leave an accelerator alone.
        restore: As for :func:`spectrim.finalize_`.

    Returns:
        For ``dense``, ``decoded`` and ``finalized``: ``min``, ``median`` (milliseconds), ``macs``, and ``speedup``
        over the dense network; ``macs_without_transforms`` where layers have bands; for the last ``forms`` too, what was measured of
        layers that have several.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() and not cpu else None
    device = torch.device("cpu") if device is None else device
    dense = build(model, fit).to(device).eval()
    example = example_for(model, dense, fit, batch_size).to(device)
    decoded = spectrim.load_(build(model, fit).to(device), file).eval()
    finalized = spectrim.load_(build(model, fit).to(device), file, decode=False).eval()
    example = made_ready_([dense, decoded, finalized], example, compile_kernels=False)
    choices: list[Choice] = []
    with threads_set(threads):
        spectrim.finalize_(finalized, example=example, choices=choices, restore=restore)
    networks = {"dense": dense, "decoded": decoded, "finalized": finalized}
    rows = paired_latency(networks, example, rounds=rounds, threads=threads).to_json()
    found: dict[str, dict[str, Any]] = {
        name: {**row, "macs": macs(networks[name], example)} for name, row in rows.items()
    }
    for name, network in networks.items():
        if (without := macs_without_transforms(network, example)) is not None:
            found[name]["macs_without_transforms"] = without
    if choices:
        found["finalized"]["forms"] = [choice.to_json() for choice in choices]
    return found
