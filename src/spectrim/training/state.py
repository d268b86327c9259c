"""Where a run stands: what is written into a checkpoint, and read back."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectrim.errors import SpectrimError
from spectrim.surgery.sites import coded
from spectrim.training.average import Average
from spectrim.training.checkpoint import Checkpoint, optimizer_state
from spectrim.training.job import Job
from spectrim.training.result import Curve, History


@dataclass
class State:
    """A run that is under way; changes as it goes.

    Attributes:
        phase: How many phases are over.
        step: Optimizer steps made in the present phase.
        plans: The edits that were made so far, each plan as JSON.
        history: What was seen so far.
    """

    phase: int
    step: int
    plans: list[str]
    history: History

    def snapshot(
        self,
        job: Job,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        average: Average | None,
        scaler: Any = None,
    ) -> Checkpoint:
        """All that has to be written down now."""
        notes = {
            "job": job.to_json(),
            "phase": self.phase,
            "step": self.step,
            "plans": self.plans,
            "history": self.history,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        memory = {} if optimizer is None else optimizer_state(optimizer)
        return Checkpoint(model.state_dict(), memory, notes, {} if average is None else average.tensors)

    @classmethod
    def restored(cls, checkpoint: Checkpoint, job: Job) -> "State":
        """Take up the run of a checkpoint.

        Raises:
            SpectrimError: It belongs to another job; the message names what differs.
        """
        notes = checkpoint.notes
        wanted, found = json.loads(json.dumps(job.to_json())), notes["job"]
        if differing := [key for key in wanted if wanted[key] != found.get(key)]:
            listed = "; ".join(f"{key} was {found.get(key)!r}, now {wanted[key]!r}" for key in differing)
            raise SpectrimError(
                f"the folder holds a run of another job: {listed}. Resume with the same options, or start again with "
                "--overwrite."
            )
        return cls(notes["phase"], notes["step"], notes["plans"], notes["history"])


def started() -> State:
    """A run that has not begun."""
    return State(
        0,
        0,
        [],
        History(
            dense=Curve(steps=[], loss=[], lr=[]),
            compressed=Curve(steps=[], loss=[], lr=[]),
            kept={"steps": [], "counts": {}},
            evaluations=[],
            repairs=[],
            seconds={},
        ),
    )


def note_kept(history: History, model: nn.Module, step: int) -> None:
    """Write down how many numbers of each coded tensor are kept now."""
    history["kept"]["steps"].append(step)
    for entry in coded(model):
        history["kept"]["counts"].setdefault(entry.site, []).append(entry.codec.numbers())
