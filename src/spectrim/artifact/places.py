"""Where the numbers of a file go in a model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spectrim.artifact.entries import Slot


@dataclass
class Place:
    """Where a tensor goes: one tensor of the model, under all the names that it has; ``resized`` if it gets smaller."""

    names: list[str]
    slots: list[Slot]
    resized: tuple[int, ...] | None = None

    @property
    def tensor(self) -> Tensor:
        """What is there now."""
        return self.slots[0].tensor

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file has it."""
        return tuple(self.tensor.shape) if self.resized is None else self.resized

    @property
    def replaced(self) -> bool:
        """Whether another tensor comes, instead of numbers into the present one."""
        return self.tensor.is_meta or self.resized is not None

    @property
    def device(self) -> torch.device:
        """Where its numbers belong; the CPU for a model that was built without numbers."""
        return torch.device("cpu") if self.tensor.is_meta else self.tensor.device
