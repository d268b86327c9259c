"""What a finished run is worth: both networks measured, the compressed one as it comes back from its file."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import spectrim
from spectrim.artifact import ByteCounts
from spectrim.measure import hardware, macs, numbers, paired_latency, parameters, state_bytes, versions
from spectrim.measure.choice import Choice
from spectrim.measure.staged import macs_in_two_stages
from spectrim.measure.without_transforms import macs_without_transforms
from spectrim.methods import Method
from spectrim.nn.spectral import SpectralCodec
from spectrim.report import rebuilt_layers, spectra
from spectrim.report.rebuilt import samples
from spectrim.surgery.sites import Coded, coded
from spectrim.training.clocked import made_ready_
from spectrim.training.metric import NAMES, evaluate
from spectrim.training.result import CompressedInfo, FormInfo, LayerInfo, RebuiltInfo, Result, Spectrum
from spectrim.training.setting import Setting
from spectrim.training.state import State
from spectrim.training.weights import load_weights_, read_weights

ARTIFACT, DENSE, CHECKPOINT = "model.safetensors", "dense.safetensors", "checkpoint.safetensors"
RESULT, REPORT = "result.json", "report.html"


def quality(setting: Setting, model: nn.Module) -> float:
    """The metric of a network on the test images of a job; all processes share the work."""
    return evaluate(
        model,
        setting.source.test,
        task=setting.source.task,
        num_classes=setting.source.num_classes,
        prepare=setting.prepare,
        accelerator=setting.accelerator,
    )


def outcome(setting: Setting, state: State, folder: Path, size: ByteCounts) -> Result:
    """Measure both networks of a run; every process takes part in the evaluation.

    Args:
        setting: Of the job.
        state: Of the run, done; receives the last evaluation.
        folder: Where its files lie.
        size: Of the artifact.
    """
    job, source, device = setting.job, setting.source, setting.accelerator.device
    dense = load_weights_(setting.network(), read_weights(folder / DENSE), origin=DENSE).eval()
    restored = spectrim.load_(setting.network(), folder / ARTIFACT).eval()
    final = spectrim.load_(setting.network(), folder / ARTIFACT, decode=False).eval()
    after = quality(setting, restored)
    before = [each["metric"] for each in state.history["evaluations"] if each["phase"] == "dense"]
    last = setting.phases()[-1]
    state.history["evaluations"].append({"phase": "compressed", "step": last.before + last.steps, "metric": after})
    held, layers = numbers(final), [_layer(entry) for entry in coded(final)]
    curves = _spectra(dense, restored, coded(final))
    remade = rebuilt_layers(final)
    rebuilt = RebuiltInfo(layers=[row.to_json() for row in remade], samples=samples(final))
    batch = made_ready_([dense, final], setting.example(setting.method.at_a_time))
    example = batch[:1]
    staged = macs_in_two_stages(final, example)
    choices: list[Choice] = []
    spectrim.finalize_(final, example=batch, choices=choices)
    clock = paired_latency({"dense": dense, "compressed": final}, batch)
    described = job.to_json()
    compressed = CompressedInfo(
        metric=after,
        numbers=held.coded + held.dense + held.small,
        coded_numbers=held.coded,
        bytes={"payload": size.payload, "plain": size.plain, "header": size.header, "total": size.total},
        macs=macs(final, example),
        latency_ms=round(clock["compressed"].min_ms / len(batch), 4),
        forms=[cast(FormInfo, choice.to_json()) for choice in choices],
    )
    if remade:
        compressed["rebuilt_numbers"] = sum(row.stored for row in remade)
    if staged is not None:
        compressed["macs_in_two_stages"] = staged
    if (without := macs_without_transforms(final, example)) is not None:
        compressed["macs_without_transforms"] = without
    return Result(
        format=1,
        model={"name": job.model, "architecture": type(dense).__name__, "weights": described["weights"]},
        data={
            "name": job.data,
            "task": source.task,
            "train": len(source.train),
            "test": len(source.test),
            "classes": source.num_classes,
            "input": list(source.shape),
        },
        method={"name": job.method, **_settings(setting.method)},
        where=described["where"],
        recipe=described["recipe"],
        rounds=job.rounds,
        start=job.start,
        seed=job.seed,
        precision=job.precision,
        dtype=job.dtype,
        metric={"name": NAMES[source.task]},
        dense={
            "metric": before[-1],
            "parameters": parameters(dense),
            "bytes": state_bytes(dense),
            "macs": macs(dense, example),
            "latency_ms": round(clock["dense"].min_ms / len(batch), 4),
        },
        compressed=compressed,
        plans=[json.loads(plan) for plan in state.plans],
        layers=layers,
        history=state.history,
        spectra=curves,
        rebuilt=rebuilt,
        files={"artifact": ARTIFACT, "dense": DENSE, "report": REPORT},
        versions=versions(),
        hardware={**hardware(), "device": str(device), "processes": setting.accelerator.num_processes},
    )


def _settings(method: Method) -> dict[str, Any]:
    return asdict(cast(Any, method))  # concrete methods are frozen dataclasses


def _layer(entry: Coded) -> LayerInfo:
    shape = [int(str(side)) for side in cast(list[Any], entry.codec.spec()["shape"])]
    return {
        "site": entry.site,
        "shape": shape,
        "numel": int(torch.Size(shape).numel()),
        "kept": entry.codec.numbers(),
    }


def _spectra(dense: nn.Module, restored: nn.Module, entries: Iterable[Coded]) -> list[Spectrum]:
    """Energy curves of the spectral codes whose tensor still has the shape it had before."""
    before, after = dense.state_dict(), restored.state_dict()
    kept: dict[str, dict[str, int]] = {}
    for entry in entries:
        if (
            isinstance(entry.codec, SpectralCodec)
            and entry.site in before
            and before[entry.site].shape == after[entry.site].shape
        ):
            kept.setdefault(entry.codec.order, {})[entry.site] = entry.codec.numbers()
    rows = [row for order, sites in kept.items() for row in spectra(before, after, sites, order=order)]  # type: ignore[arg-type]  # the codec's own
    return cast(list[Spectrum], rows)
