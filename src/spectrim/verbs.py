"""What a user does with a model: the handful of verbs that walk it."""

import os
import warnings
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from spectrim.artifact import read
from spectrim.calibration import Calibration
from spectrim.errors import SiteError
from spectrim.measure.band_forms import advice, settle_bands_
from spectrim.measure.choice import Choice, faster, inputs_of
from spectrim.measure.layer_forms import settle_layers_
from spectrim.measure.settling import settle_for_onnxruntime_
from spectrim.methods.cfdp import CFDP
from spectrim.methods.method import Method
from spectrim.methods.pointwise_pruning import PointwisePruning
from spectrim.nn.component import KINDS, Component, Layer, components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.report.banded import KINDS as BANDED
from spectrim.report.banded import banded_parts
from spectrim.report.channels import ChannelInspection
from spectrim.report.frequencies import FrequencyInspection
from spectrim.report.inspection import Inspection, inspect_model, inspect_parts
from spectrim.report.rebuilt import rebuilt_parts
from spectrim.surgery.arranging import sort_channels_
from spectrim.surgery.edits import plain_parameter, replace_module_, replace_tensor_
from spectrim.surgery.plan import Plan
from spectrim.surgery.sites import Where, coded


def plan(model: nn.Module, method: Method, *, where: Where = None, calibration: Calibration = None) -> Plan:
    """What a method would do to a model; nothing is changed.

    Args:
        model: Any module.
        method: With its hyper-parameters.
        where: Which sites: a glob on dotted names, several (a leading ``!`` excludes), or a function of name and
            module; all candidates if None.
        calibration: Batches to decide on, for methods that look at activations.

    Raises:
        SiteError: ``where`` matches nothing.
        OrderError: The model already carries a finer edit, or the same one.

    >>> import spectrim as st
    >>> print(st.plan(nn.Sequential(nn.Linear(64, 64)), st.FrequencyRegularization(keep=0.1)))
    FrequencyRegularization(keep=0.1) on Sequential: 1 edit, 4,160 → 474 parameters
      0.weight  keep 410 of 4,096 coefficients
    """
    return method.plan(model, where=where, calibration=calibration)


def compress_(model: nn.Module, method: Method, *, where: Where = None, calibration: Calibration = None) -> nn.Module:
    """Plan and make the edits, all or none. Build the optimizer after this.

    Args:
        model, method, where, calibration: As for :func:`plan`.

    Returns:
        The model, which stays of its class and keeps its names.

    Raises:
        SiteError, OrderError: As for :func:`plan`; also where there is no candidate at all.
        PlanError: An edit cannot be made; the model is as it was.

    >>> import spectrim as st
    >>> model = st.compress_(nn.Linear(8, 8), st.FrequencyRegularization(keep=0.5))
    >>> model.parametrizations.weight[0]
    SpectralCodec(shape=(8, 8), kept=64)
    """
    made = plan(model, method, where=where, calibration=calibration)
    if not made.edits and not made.skipped:
        raise SiteError(
            f"{made.method} finds no candidate in {made.model}. Wrap what is to be compressed, or name a parameter "
            "with where."
        )
    return made.apply_(model)


def penalty(model: nn.Module) -> Tensor:
    """The methods' regularisers, already weighted: add it to the loss.

    Returns:
        A scalar on the model's device; zero where no method has a regulariser.

    >>> penalty(nn.Linear(2, 2))
    tensor(0.)
    """
    terms = [KINDS[kind].penalty_together(members) for kind, members in _by_kind(model).items()]
    if known := [term for term in terms if term is not None]:
        return torch.stack([term.to(known[0]) for term in known]).sum()
    parameter = next(model.parameters(), None)
    return torch.zeros((), device=None if parameter is None else parameter.device)


def anneal_(model: nn.Module, progress: float) -> None:
    """Move the methods' schedules to where they belong at ``progress``; call it once per optimizer step.

    Monotone and idempotent: an earlier or the same progress changes nothing. Evaluation never advances anything.

    Args:
        model: With components in it.
        progress: Share of the annealing that is over, in [0, 1]: ``(step + 1) / total_steps`` reaches the end.

    Raises:
        ValueError: ``progress`` is not in [0, 1].

    >>> import spectrim as st
    >>> model = st.compress_(nn.Linear(8, 8), st.FrequencyRegularization(keep=0.5))
    >>> st.anneal_(model, 1.0)
    >>> model.parametrizations.weight[0]
    SpectralCodec(shape=(8, 8), kept=32)
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress}. Pass (step + 1) / total_steps.")
    for kind, members in _by_kind(model).items():
        KINDS[kind].anneal_together_(members, float(progress))


def _by_kind(model: nn.Module) -> dict[str, list[Component]]:
    """The components by kind; not by class, because one whose weight is coded has a class of its own."""
    found: dict[str, list[Component]] = {}
    for _, component in components(model):
        found.setdefault(component.kind, []).append(component)
    return found


def finalize_(
    model: nn.Module,
    *,
    example: Tensor | None = None,
    runtime: Literal["torch", "onnxruntime"] = "torch",
    restore: bool = False,
    choices: list[Choice] | None = None,
) -> nn.Module:
    """Settle into the inference form: every code is decoded into an ordinary parameter.

    With an ``example`` input, each layer that also has another inference form (the factored one of Frequency
    Regularization, the two stages of reconstructed filters) is measured in all of them on this machine, and the fastest stays. A model
    with layers in two stages that is then no faster than with dense ones gets these: the whole is measured too. And the channels that a banded convolution reads are laid in the order that it needs them in, wherever the network allows
    it. A stream of maps between such convolutions stays a spectrum where that is faster, with the norms in it folded. Others take
    the norms behind them into their weights, and clamp in the places of activations beside them.
    Each banded convolution is measured beside the dense layer, and the model with all of them beside one with none; as the model must
    compute what it did, they stay all the same, and a warning says how many run slower. With ``restore`` these are dense.

    Args:
        model: With components in it; copies of it stay as they are.
        example: One batch of the size and on the device where the model will run.
        runtime: Where it will run. With ``onnxruntime``, for a model that is exported next, banded convolutions and reconstructed filters
            are measured there, on one thread, then the network as a whole. A banded one that loses to the dense convolution becomes it
            again, with the frequencies that were cut, as do all of them where the network is no faster; all others compute what they did.
        restore: Whether banded convolutions that run no faster here than the dense layer become it again, with the frequencies that
            were cut, as they do with ``onnxruntime``: what the model computes then changes.
        choices: If given, what was measured of each layer that is a component is added to it.

    Returns:
        The model.

    Raises:
        ValueError: onnxruntime is to be measured, or frequencies are to be restored, without an example.
        UnsupportedError: It is not installed, or a layer cannot be exported to it.

    >>> import spectrim as st
    >>> model = st.compress_(nn.Linear(8, 8), st.FrequencyRegularization(keep=0.5))
    >>> type(st.finalize_(model)).__name__
    'Linear'
    """
    if runtime != "torch" and example is None:
        raise ValueError(
            f"runtime={runtime!r} is measured on an input, got no example. Pass example, a batch of one image."
        )
    if restore and example is None:
        raise ValueError(
            "restore=True measures which layers are slower, got no example. Pass example, a batch as it will run."
        )
    there = example is not None and runtime == "torch"
    measured = _measured(model, example) if there and example is not None else {}
    for entry in reversed(coded(model)):
        other = measured.get(entry.site)
        with torch.no_grad():
            dense = entry.codec(entry.code)
            flushed = torch.where(dense.abs() < torch.finfo(dense.dtype).tiny, 0, dense)
        replace_tensor_(entry.module, entry.tensor, plain_parameter(entry.code, flushed))
        if other is not None:
            replace_module_(model, entry.module, other)
    if example is not None:
        sort_channels_(model, example)
        choices = [] if choices is None else choices
        bands = settle_bands_(model, example, restore=restore) if there else settle_for_onnxruntime_(model, example)
        if there and (advised := advice(bands, example)) is not None:
            warnings.warn(advised, stacklevel=2)
        choices.extend(bands)
        choices.extend(settle_layers_(model, example, compiled=there))
    for _, component in list(components(model)):
        final = cast(Layer, component).finalized()
        if final is not component:
            replace_module_(model, component, final)
    return model


def _measured(model: nn.Module, example: Tensor) -> dict[str, nn.Module]:
    """For each coded tensor whose layer runs faster in another form on its real input: that form."""
    modules = [id(entry.module) for entry in coded(model)]
    entries = {
        entry.path: entry
        for entry in coded(model)
        if entry.path and entry.tensor == "weight" and modules.count(id(entry.module)) == 1
    }
    inputs = inputs_of(model, list(entries), example)
    winners: dict[str, nn.Module] = {}
    for path, x in inputs.items():
        entry = entries[path]
        other = entry.codec.alternative(entry.module, entry.code)
        if other is None:
            continue
        training = entry.module.training
        if faster(other.eval(), entry.module.eval(), x):  # in eval mode the decoded weight is cached: a plain layer
            winners[entry.site] = other.train(training)
        entry.module.train(training)
    return winners


def inspect(what: nn.Module | str | os.PathLike[str]) -> Inspection:
    """What is inside a model or an artifact: a row per tensor, totals; print it, or take ``to_json()``.

    For a live model the rows also say how much of a code's energy is kept, and in how many coefficients of a dense
    weight's spectrum 99 % of its energy lies.

    Args:
        what: A model, or the path of an artifact (which is read without any model).

    Raises:
        ArtifactError: The file is no artifact.

    >>> print(inspect(nn.Linear(4, 2)).headline())
    Linear: 10 numbers, nothing coded, 20 B at float16
    """
    if isinstance(what, nn.Module):
        return inspect_model(what)
    artifact = read(what)
    structure = artifact.structure
    templates = {each.path: each.spec for each in structure.components if each.kind == TemplateConv.kind}
    bands = {each.path: each.spec for each in structure.components if each.kind in BANDED}
    return inspect_parts(
        Path(what).name,
        components=[
            (
                each.path,
                each.kind,
                each.spec,
                sum(part.length for part in each.parts),
                sum(p.nbytes for p in each.parts),
            )
            for each in structure.components
        ],
        tensors=[(each.name, each.shape, each.nbytes) for each in structure.tensors],
        header=Path(what).stat().st_size - structure.payload - structure.plain,
        rebuilt=rebuilt_parts(templates, artifact.tensors),
        banded=banded_parts(bands, artifact.tensors),
    )


def inspect_channels(
    model: nn.Module, method: CFDP, *, where: Where = None, calibration: Calibration = None
) -> ChannelInspection:
    """How a ranking scores the channels of a model, group by group, and what of them would go; nothing is changed.

    Print it for a table, take ``to_json()`` for all scores, ``draw("scores.png")`` for a picture.

    Args:
        model, method, where, calibration: As for :func:`plan`, and what that raises is raised.

    >>> import spectrim as st
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> found = st.inspect_channels(net, st.CFDP(keep=0.5, round_to=1), calibration=torch.rand(4, 3, 8, 8))
    >>> print(found.headline())
    CFDP(keep=0.5, round_to=1) on Sequential: 1 group of channels, 1 of them cut, 4 of 8 channels stay
    >>> len(found.groups[0].scores), len(found.groups[0].gone)
    (8, 4)
    """
    groups, skipped = method.ranking(model, where=where, calibration=calibration)
    return ChannelInspection(method=repr(method), model=type(model).__name__, groups=groups, skipped=skipped)


def inspect_frequencies(
    model: nn.Module, method: PointwisePruning, *, where: Where = None, calibration: Calibration = None
) -> FrequencyInspection:
    """What each frequency is worth in every channel that pointwise convolutions read, and what bands that gives; nothing is changed.

    Print it for a table: how surely the worth falls with the frequency (the median over the channels of its rank correlation), and how far
    the bands of the channels lie apart. Take ``to_json()`` for all numbers, ``draw("frequencies.png")`` for a picture.

    Args:
        model, method, where, calibration: As for :func:`plan`, and what that raises is raised.

    >>> import spectrim as st
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 1))
    >>> method = st.PointwisePruning(keep=0.5, pays="always")
    >>> found = st.inspect_frequencies(net, method, calibration=torch.rand(4, 3, 10, 10))
    >>> found.layers[0].worth.shape
    torch.Size([8, 63])
    """
    layers, skipped = method.sensitivities(model, where=where, calibration=calibration)
    return FrequencyInspection(method=repr(method), model=type(model).__name__, layers=layers, skipped=skipped)
