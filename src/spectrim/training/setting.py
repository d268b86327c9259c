"""A job made concrete: data opened, network and method checked, before any time is spent on training."""

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

import spectrim
from spectrim.budget import MEASURED, Target
from spectrim.errors import DataError, SiteError, UnsupportedError
from spectrim.measure import fast_bfloat16
from spectrim.methods import METHODS
from spectrim.methods.method import Method
from spectrim.training.job import Job
from spectrim.training.loop import Phase
from spectrim.training.models import Fit, build, channels_of, check_output
from spectrim.training.randomness import seed_everything
from spectrim.training.source import Normalization, Preprocessing, Source
from spectrim.training.sources import open_source
from spectrim.training.waiting import measuring_waits, planning_waits
from spectrim.training.weights import load_file_

_CALIBRATION = 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the phases of a job share.

    Attributes:
        job: What was asked for.
        accelerator: Where it runs, with whom, and in which precision.
        source: The images.
        prepare: From pixels to what the network sees.
        method: With its hyper-parameters.
        first: What the method does to the network as it starts, where no training comes before: planned once, and carried out.
    """

    job: Job
    accelerator: Accelerator
    source: Source
    prepare: Preprocessing
    method: Method
    first: spectrim.Plan | None = None

    def network(self) -> nn.Module:
        """The network with its first weights: pretrained, or drawn from the seed."""
        seed_everything(self.job.seed)
        model = build(self.job.model, fit_to(self.source))
        if self.job.weights is not None:
            load_file_(model, self.job.weights)
        return model.to(self.accelerator.device)

    def fresh(self) -> nn.Module:
        """The network with other weights, drawn from the seed too."""
        seed_everything(self.job.seed, 0, 1)
        return build(self.job.model, fit_to(self.source)).to(self.accelerator.device)

    def phases(self) -> tuple[Phase, ...]:
        """What trains, one after the other: the dense network, then the compressed one in each round."""
        recipes, rounds = self.job.recipes(), self.job.rounds
        phases: list[Phase] = []
        for number, recipe in enumerate((recipes.dense, *recipes.compressed.shared(rounds))):
            before = sum(phase.steps for phase in phases[1:])
            phases.append(
                Phase(
                    number=number,
                    recipe=recipe,
                    source=self.source,
                    prepare=self.prepare,
                    seed=self.job.seed,
                    rounds=rounds,
                    before=before,
                )
            )
        return tuple(phases)

    def example(self, count: int = 1) -> Tensor:
        """A few test images as the network sees them."""
        pixels, _ = self.source.test.batch(torch.arange(min(count, len(self.source.test))))
        return self.prepare(pixels.to(self.accelerator.device))

    @property
    def calibration(self) -> "Calibration":
        """Batches for methods that look at activations."""
        return Calibration(self.source, self.prepare, self.accelerator.device)

    def plan(self, model: nn.Module, number: int = 1) -> spectrim.Plan:
        """What the method would do in a round, decided by the first process for all."""
        text = None
        if self.accelerator.is_main_process or self.accelerator.num_processes == 1:
            where = None if self.job.where is None else list(self.job.where)
            plan = self.first
            if plan is None:
                plan = spectrim.plan(
                    self.as_timed(model), self.rounds()[number - 1], where=where, calibration=self.calibration
                )
            text = plan.to_json()
        if self.accelerator.num_processes > 1:
            (text,) = broadcast_object_list([text])
        return spectrim.Plan.from_json(str(text))

    @property
    def timed(self) -> str | None:
        """The target that the network is measured for, if it is."""
        target = self.job.settings.get("target")
        return str(target) if target is not None and Target.parse(target).quantity in MEASURED else None

    def as_timed(self, model: nn.Module) -> nn.Module:
        """The network in the memory format in which banded convolutions are measured, if it is to be measured: then a copy."""
        if self.timed is None or not isinstance(self.method, spectrim.PointwisePruning):
            return model
        copied: nn.Module = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in clocked.py
        return copied

    def rounds(self) -> Sequence[Method]:
        """What each round applies.

        Raises:
            UnsupportedError: The method has no rounds.
        """
        if self.job.rounds == 1:
            return (self.method,)
        where = None if self.job.where is None else list(self.job.where)
        return self.method.in_rounds(self.network(), self.job.rounds, where=where, calibration=self.calibration)


@dataclass(frozen=True)
class Calibration:
    """Some batches of training images, the same in every pass: spread evenly, as many sources have one class after the other."""

    source: Source
    prepare: Preprocessing
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        """Batches of 64 images as the network sees them."""
        count = min(_CALIBRATION * 64, len(self.source.train))
        rows = torch.arange(count) * len(self.source.train) // count
        for some in rows.split(64):  # type: ignore[no-untyped-call]
            yield self.prepare(self.source.train.batch(some)[0].to(self.device))


def calibration_for(
    model: nn.Module, data: str, *, image_size: int | None = None, normalize: Normalization = "data"
) -> Calibration:
    """The calibration that a job on these data would use.

    Raises:
        DataError: The data are not there, or the network wants other images.
    """
    source = open_source(data, image_size=image_size)
    return Calibration(source, preprocessing(model, source, normalize), torch.device("cpu"))


def fit_to(source: Source) -> Fit:
    """What a network for these images has to be built for."""
    channels, height, width = source.shape
    return Fit(channels=channels, size=height if height == width else None, num_classes=source.num_classes)


def fit_for(
    data: str | None, *, image_size: int | None = None, channels: int | None = None, num_classes: int | None = None
) -> Fit:
    """What a network has to be built for, by a source or by numbers; numbers win."""
    fit = Fit() if data is None else fit_to(open_source(data, image_size=image_size))
    return Fit(
        channels=channels or fit.channels,
        size=image_size or fit.size,
        num_classes=num_classes or fit.num_classes,
    )


def preprocessing(model: nn.Module, source: Source, normalize: Normalization = "data") -> Preprocessing:
    """From the pixels of a source to what a network sees; grey images are repeated for a network that wants colour.

    Raises:
        DataError: The network wants another number of channels.
    """
    channels = source.shape[0]
    wanted = channels_of(model, channels)
    if channels not in {wanted, 1}:
        raise DataError(f"{source.name}: images of {channels} channels, the network reads {wanted}.")
    mean, std = source.statistics(normalize)
    return Preprocessing(mean, std, wanted)


def method_for(job: Job) -> Method:
    """The method of a job.

    Raises:
        SiteError: There is no such method.
        ValueError: A hyper-parameter is unknown or out of range.
    """
    if job.method not in METHODS:
        raise SiteError(f"no method {job.method!r}. There are {', '.join(METHODS)}.")
    method = METHODS[job.method]
    known = [field.name for field in fields(cast(Any, method))]
    if unknown := [name for name in job.settings if name not in known]:
        raise ValueError(f"{job.method} has no setting {unknown[0]!r}. It has {', '.join(known)}.")
    try:
        return method(**job.settings)
    except TypeError as error:
        raise ValueError(str(error)) from error


def settle(job: Job, *, cpu: bool = False, say: Callable[[str], None] = lambda _: None) -> Setting:
    """Open the data, build the network once, plan once.

    Args:
        job: What is asked for.
        cpu: Leave an accelerator alone.
        say: Told, in a sentence, what will take long.

    Raises:
        SpectrimError: Something that was asked for is missing, or does not fit together.
        ValueError: A value is out of range.
    """
    method = method_for(job)
    accelerator = accelerator_for(job.precision, cpu=cpu)
    source = open_source(job.data, image_size=job.image_size)
    seed_everything(job.seed)
    draft = build(job.model, fit_to(source))
    prepare = preprocessing(draft, source, job.normalize)
    setting = Setting(job=job, accelerator=accelerator, source=source, prepare=prepare, method=method)
    model = setting.network()
    check_output(job.model, model, setting.example(2), source.test.labels[:2], source.num_classes)
    where = None if job.where is None else list(job.where)
    for sentence in (*planning_waits(method), *measuring_waits(method)):
        say(sentence)
    if isinstance(method, spectrim.PointwisePruning) and method.learn and job.recipes().compressed.epochs == 0:
        say("asked to learn the bands, found no epochs to learn them in: they stay as calibrated. Give --epochs.")
    plan = spectrim.plan(setting.as_timed(model), method, where=where, calibration=setting.calibration)
    if not plan.edits:
        raise SiteError(
            f"{plan.method} finds nothing to edit in {plan.model}; spectrim plan says why, tensor by tensor."
        )
    setting.rounds()
    untouched = job.rounds == 1 and job.recipes().dense.epochs == 0
    return replace(setting, first=plan) if untouched else setting


def accelerator_for(precision: str, *, cpu: bool = False) -> Accelerator:
    """Where to run.

    Raises:
        UnsupportedError: The precision is not available there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the same bits every time, before CUDA wakes up
    if "WORLD_SIZE" not in os.environ:  # accelerate remembers the first precision of a process; several jobs may follow
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001  # its own tests do it this way
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu)
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UnsupportedError("--precision fp16 needs an accelerator, found a CPU. bf16 works there.")
    if precision == "bf16" and not fast_bfloat16(accelerator.device):
        warnings.warn(
            f"--precision bf16 was asked for, and this {accelerator.device.type} device only imitates it, several times "
            "slower than float32. Leave it out here.", stacklevel=2,
        )  # fmt: skip
    return accelerator
