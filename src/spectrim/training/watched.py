"""The steps of one phase as they are carried out: looked at, evaluated, and written down between them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from spectrim.errors import SpectrimError
from spectrim.training.average import Average
from spectrim.training.checkpoint import Checkpoint, restore_optimizer_
from spectrim.training.loop import Phase, check_loss, train
from spectrim.training.optimizer import optimizer_for
from spectrim.training.outcome import CHECKPOINT, DENSE, quality
from spectrim.training.progress import Reporter
from spectrim.training.randomness import seed_everything
from spectrim.training.result import History
from spectrim.training.setting import Setting
from spectrim.training.state import State, note_kept
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
        asked: Whether somebody wants the run to stop.
    """

    setting: Setting
    folder: Path
    checkpoint_every: int | None = None
    reporter: Reporter
    asked: Callable[[], bool]

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.setting.accelerator.is_main_process)


def carry_out(this: Run, state: State, model: nn.Module, phase: Phase, checkpoint: Checkpoint | None) -> None:
    """Make the steps of a phase that are not made yet; look, evaluate and write checkpoints between them.

    Where the recipe asks for a moving average of the weights, that is what is evaluated, and what the model holds in the end.

    Args:
        this: The run.
        state: Where it stands; moves on.
        model: Of the shapes that this phase trains.
        phase: To carry out.
        checkpoint: Written within this phase, if one was; its numbers go into the model and the optimizer.

    Raises:
        StoppedError: Somebody asked for it; a checkpoint was written.
        SpectrimError: The loss is not finite.
    """
    accelerator, history = this.setting.accelerator, state.history
    curve = history[phase.part]
    seed_everything(phase.seed, phase.number)
    optimizer = optimizer_for(model, phase.recipe)
    if checkpoint is not None:
        model.load_state_dict(dict(checkpoint.model))
        restore_optimizer_(optimizer, checkpoint.optimizer)
        if accelerator.scaler is not None and checkpoint.notes["scaler"]:
            accelerator.scaler.load_state_dict(checkpoint.notes["scaler"])
    average = None if phase.recipe.ema is None else Average(model, phase.recipe.ema)
    if average is not None and checkpoint is not None and checkpoint.average:
        average.load_(checkpoint.average)
    total = phase.steps
    look = max(1, total // _LOOKS)
    evaluation = max(1, phase.recipe.epochs // _EVALUATIONS) * phase.steps_per_epoch
    losses: list[torch.Tensor] = []
    last, pause = time.monotonic(), _PAUSE
    teacher = None if phase.recipe.distill is None else _teacher(this)
    steps = train(model, optimizer, phase, accelerator=accelerator, start=state.step, teacher=teacher)
    with this.reporter.phase(phase.name, total=total, done=state.step), _timed(history, phase.name):
        for step in steps:
            state.step = step.done
            if average is not None:
                average.update(model, step.done)
            losses.append(step.loss)
            if step.done % look == 0 or step.done == total:
                loss = float(torch.stack(losses).mean())
                check_loss(loss, step.done, step.lr)
                losses.clear()
                curve["steps"].append(phase.before + step.done)
                curve["loss"].append(round(loss, 6))
                curve["lr"].append(step.lr)
                if phase.number:
                    note_kept(history, model, phase.before + step.done)
                this.reporter.step(step.done, f"loss {loss:.4f}{_kept_now(state)}")
            if step.done % evaluation == 0 and step.done != total:
                with nullcontext() if average is None else average.in_place_of(model):
                    evaluate(this, state, model, phase)
            if step.done == total:
                break
            due = step.done % this.checkpoint_every == 0 if this.checkpoint_every else time.monotonic() - last > pause
            if due or this.asked():
                begin = time.monotonic()
                write_down(this, state, model, optimizer, average)
                last = time.monotonic()
                pause = max(_PAUSE, (last - begin) / _EFFORT)
            if this.asked():
                raise StoppedError(f"stopped at step {step.done} of {total} ({phase.name}). Go on with --resume.")
    if average is not None:
        average.into_(model)


def _teacher(this: Run) -> nn.Module:
    """The dense network, from its file: there after a resume too."""
    this.setting.accelerator.wait_for_everyone()
    teacher = load_weights_(this.setting.network(), read_weights(this.folder / DENSE), origin=DENSE)
    return teacher.eval().requires_grad_(False)


def evaluate(this: Run, state: State, model: nn.Module, phase: Phase) -> None:
    """Measure the network as it is now, for the history."""
    _same_everywhere_(this, model)
    value = quality(this.setting, model)
    state.history["evaluations"].append({"phase": phase.part, "step": phase.before + state.step, "metric": value})
    this.reporter.say(f"{phase.name}: {value:.2%} on the test images after step {state.step}")


def _same_everywhere_(this: Run, model: nn.Module) -> None:
    """Give all processes the first one's running statistics; parameters are the same already."""
    if this.setting.accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def write_down(
    this: Run,
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: Average | None = None,
) -> None:
    """Write a checkpoint, in the first process."""
    if this.first:
        scaler = this.setting.accelerator.scaler
        state.snapshot(this.setting.job, model, optimizer, average, scaler).write(this.folder / CHECKPOINT)


@contextmanager
def _timed(history: History, name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    history["seconds"][name] = round(time.monotonic() - begin, 2)


def _kept_now(state: State) -> str:
    counts = state.history["kept"]["counts"]
    return f", {sum(values[-1] for values in counts.values()):,} coefficients" if counts else ""
