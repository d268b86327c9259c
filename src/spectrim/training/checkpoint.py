"""Where a run stands, in one file that is whole at every moment: tensors as safetensors, the rest as JSON in its header."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spectrim.artifact.writer import write_atomically
from spectrim.errors import ArtifactError

FORMAT = "2"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of a run depends on. Random states are not among it, see ``randomness.py``.

    Attributes:
        model: Its state dict, codes and kept counts included.
        optimizer: Its ``state``: tensors by number of the parameter and name.
        average: The moving average of the model's state dict, where there is one.
        notes: Plain JSON: the job, the phase, the step, the plans, the history.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file at once, or leave it.

        Raises:
            ArtifactError: The system refuses; the checkpoint that was there is whole.
        """
        tensors = {f"model/{name}": tensor for name, tensor in self.model.items()}
        for number, slots in self.optimizer.items():
            tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in slots.items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # unshares ties
        write_atomically(path, [save(own, {"spectrim-checkpoint": FORMAT, "notes": json.dumps(self.notes)})])

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read what :meth:`write` wrote; nothing in the file is executed.

        Raises:
            ArtifactError: The file is damaged or no checkpoint.
        """
        model: dict[str, Tensor] = {}
        average: dict[str, Tensor] = {}
        optimizer: dict[int, dict[str, Tensor]] = {}
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                if notes.get("spectrim-checkpoint") != FORMAT:
                    raise ArtifactError(f"{path}: not a checkpoint of this version. Start again with --overwrite.")
                for key in file.keys():  # noqa: SIM118  # it is no dictionary
                    part, _, rest = key.partition("/")
                    if part in {"model", "average"}:
                        (model if part == "model" else average)[rest] = file.get_tensor(key)
                    else:
                        number, _, name = rest.partition("/")
                        optimizer.setdefault(int(number), {})[name] = file.get_tensor(key)
            return cls(model, optimizer, json.loads(notes["notes"]), average)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path}: damaged ({error}). Start again with --overwrite.") from error


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The tensors that an optimizer remembers, by number of the parameter and name."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        number: {name: value for name, value in slots.items() if isinstance(value, Tensor)}
        for number, slots in state.items()
    }


def restore_optimizer_(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Give a fresh optimizer over the same parameters its memory back."""
    whole = optimizer.state_dict()
    whole["state"] = {number: dict(slots) for number, slots in state.items()}
    optimizer.load_state_dict(whole)
