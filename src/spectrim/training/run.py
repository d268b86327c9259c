"""A job from beginning to end, in phases that can be stopped at any moment and taken up again."""

import json
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
from spectrim.training.checkpoint import Checkpoint
from spectrim.training.interruption import stop_requests
from spectrim.training.loop import Phase
from spectrim.training.outcome import ARTIFACT, CHECKPOINT, DENSE, REPORT, RESULT, outcome
from spectrim.training.progress import Reporter, Silent
from spectrim.training.randomness import deterministic
from spectrim.training.reinit import reinitialise_
from spectrim.training.repairing import edited_
from spectrim.training.result import Result
from spectrim.training.setting import Setting
from spectrim.training.state import State, note_kept, started
from spectrim.training.watched import Run, carry_out, evaluate, write_down
from spectrim.training.weights import load_weights_, read_weights


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
    if accelerator.is_main_process:
        _made(folder)
    with deterministic(), stop_requests() as asked:
        this = Run(setting=setting, folder=folder, checkpoint_every=checkpoint_every, reporter=reporter, asked=asked)
        _phases(this, state, checkpoint)
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


def _phases(this: Run, state: State, checkpoint: Checkpoint | None) -> None:
    """Carry out the phases that are not over; between two of them, edit the network."""
    phases = this.setting.phases()
    if state.phase == len(phases):
        return
    model = _network(this, state)
    for phase in phases[state.phase :]:
        carry_out(this, state, model, phase, checkpoint)
        checkpoint = None
        if phase is phases[-1]:
            _finish(this, state, model, phase)
        else:
            evaluate(this, state, model, phase)
            if phase.number == 0 and this.first:
                tensors = {name: value.cpu().contiguous().clone() for name, value in model.state_dict().items()}
                write_atomically(this.folder / DENSE, [safetensors_bytes(tensors)])
            _edit(this, state, model, phases[phase.number + 1])
        state.phase, state.step = phase.number + 1, 0
        write_down(this, state, model)


def _network(this: Run, state: State) -> nn.Module:
    """The network in the shapes that it has in the phase where the run stands."""
    model = this.setting.network()
    if state.phase:
        load_weights_(model, read_weights(this.folder / DENSE), origin=DENSE)
    for plan in state.plans:
        spectrim.Plan.from_json(plan).apply_(model)
    return model


def _edit(this: Run, state: State, model: nn.Module, phase: Phase) -> None:
    """Compress the network for a phase: plan on what it is now, and make the edits."""
    plan = this.setting.plan(model, phase.number)
    repair = edited_(this.setting, model, plan)
    state.plans.append(plan.to_json())
    if repair is not None:
        state.history["repairs"].append(repair.to_json())
        this.reporter.say(str(repair).splitlines()[0])
    if (start := this.setting.job.start) != "none":
        reinitialise_(model, plan.apply_(this.setting.fresh()), start)
    note_kept(state.history, model, phase.before)


def _finish(this: Run, state: State, model: nn.Module, phase: Phase) -> None:
    """Write the artifact."""
    spectrim.anneal_(model, 1.0)
    note_kept(state.history, model, phase.before + state.step)
    if this.first:
        dtype: torch.dtype = getattr(torch, this.setting.job.dtype)
        spectrim.save(model, this.folder / ARTIFACT, dtype=dtype, norms=this.setting.job.norms)


def _size(path: Path) -> ByteCounts:
    """The byte counts of an artifact, from the file."""
    structure = read(path).structure
    return ByteCounts(structure.payload, structure.plain, path.stat().st_size - structure.payload - structure.plain)
