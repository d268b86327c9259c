"""A job from beginning to end, in phases that can be stopped at any moment and taken up again."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

import spectrim
from spectrim.artifact import ByteCounts, read
from spectrim.artifact.writer import write_atomically
from spectrim.errors import SpectrimError, UnsupportedError
from spectrim.report import write_page
from spectrim.training.checkpoint import Checkpoint, restore_optimizer_
from spectrim.training.interruption import stop_requests
from spectrim.training.loop import Phase, check_loss, train
from spectrim.training.optimizer import optimizer_for
from spectrim.training.outcome import ARTIFACT, CHECKPOINT, DENSE, REPORT, RESULT, outcome, quality
from spectrim.training.progress import Reporter, Silent
from spectrim.training.randomness import deterministic, seed_everything
from spectrim.training.result import Result
from spectrim.training.setting import Setting
from spectrim.training.state import State, note_kept, started
from spectrim.training.weights import load_weights_, read_weights

_LOOKS = 100  # entries of the history in a phase
_EVALUATIONS = 5  # in a phase, the last one included
_PAUSE = 10.0  # least seconds between two checkpoints that nobody asked for
_EFFORT = 0.05  # most of the time that may go into writing them


class StoppedError(SpectrimError):
    """The run was asked to stop and has written down where it stands."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a job is carried out; nothing here changes what comes out of it.

    Attributes:
        setting: Of the job.
        folder: Where files are written.
        checkpoint_every: Steps between two checkpoints; at most one every ten seconds if None.
        reporter: Told what happens.
    """

    setting: Setting
    folder: Path
    checkpoint_every: int | None = None
    reporter: Reporter

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.setting.accelerator.is_main_process)


def run(
    setting: Setting,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Carry out a job: dense training, compression, annealing and fine-tuning, evaluation, report.

    Writes ``model.safetensors`` (the artifact), ``dense.safetensors``, ``result.json`` and ``report.html``; while it
    runs, ``checkpoint.safetensors`` says where it stands. Each of them is replaced whole. The artifact's bytes depend on
    the job alone, however often the run was stopped.

    Args:
        setting: Of the job, from :func:`spectrim.training.setting.settle`.
        folder: Made if it is not there.
        resume: Take up the run that the folder holds; without one, start.
        overwrite: Start again in a folder that holds a run.
        checkpoint_every: Steps between two checkpoints.
        reporter: Told what happens; nobody if None.

    Raises:
        SpectrimError: The folder holds a run and neither word was said, or a run of another job; or something could
            not be written.
        StoppedError: Somebody asked for it; the run can be resumed.
    """
    accelerator = setting.accelerator
    state, checkpoint = _found(setting, folder, resume=resume, overwrite=overwrite)
    accelerator.wait_for_everyone()
    reporter = reporter if reporter is not None and accelerator.is_main_process else Silent()
    this = Run(setting=setting, folder=folder, checkpoint_every=checkpoint_every, reporter=reporter)
    if this.first:
        _made(folder)
    with deterministic(), stop_requests() as asked:
        if state.stage == "dense":
            _dense(this, state, checkpoint, asked)
            checkpoint = None
        if state.stage == "compressed":
            _compressed(this, state, checkpoint, asked)
        accelerator.wait_for_everyone()
        size = _size(folder / ARTIFACT)
        result = outcome(setting, state, folder, size)
    if this.first:
        write_atomically(folder / RESULT, [json.dumps(result, indent=1).encode() + b"\n"])
        try:
            write_page(folder / REPORT, cast(dict[str, object], result))
        except UnsupportedError as error:
            reporter.say(str(error))
    accelerator.wait_for_everyone()
    return result


def _found(setting: Setting, folder: Path, *, resume: bool, overwrite: bool) -> tuple[State, Checkpoint | None]:
    """The run that a folder holds, or a new one."""
    path = folder / CHECKPOINT
    if folder.exists() and not folder.is_dir():
        raise SpectrimError(f"{str(folder)!r} is a file; a folder for the results was expected.")
    if path.is_file() and resume:
        checkpoint = Checkpoint.read(path)
        return State.restored(checkpoint, setting.job), checkpoint
    if not resume and not overwrite and (path.is_file() or (folder / RESULT).is_file()):
        raise SpectrimError(
            f"{str(folder)!r} already holds a run. Pass --resume to take it up, --overwrite to start again, or another "
            "--out."
        )
    return started(), None


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpectrimError(f"cannot make the folder {str(folder)!r}: {error.strerror}.") from error


def _dense(this: Run, state: State, checkpoint: Checkpoint | None, asked: Callable[[], bool]) -> None:
    """Train the dense network, evaluate it, keep it."""
    model = this.setting.network()
    _trained(this, state, model, this.setting.phase(0), checkpoint, asked)
    _evaluated(this, state, model)
    if this.first:
        tensors = {name: value.cpu().contiguous().clone() for name, value in model.state_dict().items()}
        write_atomically(this.folder / DENSE, [safetensors_bytes(tensors)])
    state.plan = this.setting.plan(model).to_json()
    state.stage, state.step = "compressed", 0
    spectrim.Plan.from_json(state.plan).apply_(model)
    note_kept(state.history, model, 0)
    _saved(this, state, model, None)


def _compressed(this: Run, state: State, checkpoint: Checkpoint | None, asked: Callable[[], bool]) -> None:
    """Compress, train on while the schedules move, write the artifact."""
    setting = this.setting
    setting.accelerator.wait_for_everyone()
    model = load_weights_(setting.network(), read_weights(this.folder / DENSE), origin=DENSE)
    spectrim.Plan.from_json(str(state.plan)).apply_(model)
    _trained(this, state, model, setting.phase(1), checkpoint, asked)
    spectrim.anneal_(model, 1.0)
    note_kept(state.history, model, state.step)
    state.stage = "done"
    if this.first:
        dtype: torch.dtype = getattr(torch, setting.job.dtype)
        spectrim.save(model, this.folder / ARTIFACT, dtype=dtype, norms=setting.job.norms)
    _saved(this, state, model, None)


def _trained(
    this: Run,
    state: State,
    model: nn.Module,
    phase: Phase,
    checkpoint: Checkpoint | None,
    asked: Callable[[], bool],
) -> None:
    """Make the steps of a phase that are not made yet; look, evaluate and write checkpoints between them."""
    accelerator, history = this.setting.accelerator, state.history
    name = "compressed" if phase.number else "dense"
    curve = history["compressed"] if phase.number else history["dense"]
    seed_everything(phase.seed, phase.number)
    optimizer = optimizer_for(model, phase.recipe)
    if checkpoint is not None:
        model.load_state_dict(dict(checkpoint.model))
        restore_optimizer_(optimizer, checkpoint.optimizer)
        if accelerator.scaler is not None and checkpoint.notes["scaler"]:
            accelerator.scaler.load_state_dict(checkpoint.notes["scaler"])
    total = phase.steps
    look = max(1, total // _LOOKS)
    evaluation = max(1, phase.recipe.epochs // _EVALUATIONS) * phase.steps_per_epoch
    losses: list[torch.Tensor] = []
    last, pause = time.monotonic(), _PAUSE
    steps = train(model, optimizer, phase, accelerator=accelerator, start=state.step)
    with this.reporter.phase(name, total=total, done=state.step), _timed(history, name):
        for step in steps:
            state.step = step.done
            losses.append(step.loss)
            if step.done % look == 0 or step.done == total:
                loss = float(torch.stack(losses).mean())
                check_loss(loss, step.done, step.lr)
                losses.clear()
                curve["steps"].append(step.done)
                curve["loss"].append(round(loss, 6))
                curve["lr"].append(step.lr)
                if phase.number:
                    note_kept(history, model, step.done)
                this.reporter.step(step.done, f"loss {loss:.4f}{_kept_now(state)}")
            if step.done % evaluation == 0 and step.done != total:
                _evaluated(this, state, model)
            if step.done == total:
                break
            due = step.done % this.checkpoint_every == 0 if this.checkpoint_every else time.monotonic() - last > pause
            if due or asked():
                begin = time.monotonic()
                _saved(this, state, model, optimizer)
                last = time.monotonic()
                pause = max(_PAUSE, (last - begin) / _EFFORT)
            if asked():
                raise StoppedError(f"stopped at step {step.done} of {total} ({name}). Go on with --resume.")


@contextmanager
def _timed(history: object, name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    cast(dict[str, dict[str, float]], history)["seconds"][name] = round(time.monotonic() - begin, 2)


def _evaluated(this: Run, state: State, model: nn.Module) -> None:
    _same_everywhere_(this, model)
    value = quality(this.setting, model)
    state.history["evaluations"].append({"phase": state.stage, "step": state.step, "metric": value})
    this.reporter.say(f"{state.stage}: {value:.2%} on the test images after step {state.step}")


def _same_everywhere_(this: Run, model: nn.Module) -> None:
    """Give all processes the first one's running statistics; parameters are the same already."""
    if this.setting.accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _saved(this: Run, state: State, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    if this.first:
        scaler = this.setting.accelerator.scaler
        state.snapshot(this.setting.job, model, optimizer, scaler).write(this.folder / CHECKPOINT)


def _kept_now(state: State) -> str:
    counts = state.history["kept"]["counts"]
    return f", {sum(values[-1] for values in counts.values()):,} coefficients" if counts else ""


def _size(path: Path) -> ByteCounts:
    """The byte counts of an artifact, from the file."""
    structure = read(path).structure
    return ByteCounts(structure.payload, structure.plain, path.stat().st_size - structure.payload - structure.plain)
