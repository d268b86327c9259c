"""The abstract method: it plans, it does not do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from spectrim.calibration import Calibration
from spectrim.errors import UnsupportedError
from spectrim.surgery.plan import Plan
from spectrim.surgery.sites import Where

METHODS: dict[str, type["Method"]] = {}
"""Every method by the name that the command line has for it. Filled by the class statements, never changed after."""


class Method(ABC):
    """Hyper-parameters with one verb.

    Concrete methods are frozen dataclasses::

        @dataclass(frozen=True)
        class CFDP(Method, name="cfdp"): ...

    Raises:
        TypeError: Two classes claim the same name.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, *, name: str) -> None:
        if name in METHODS:
            raise TypeError(f"the name {name!r} already belongs to {METHODS[name].__name__}. Choose another.")
        cls.name = name
        METHODS[name] = cls

    @property
    def at_a_time(self) -> int:
        """How many images it measures time with; so many are what its result is finalized and timed for."""
        return 1

    @abstractmethod
    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """Read a model and return the edits this method wants. Never changes the model.

        Args:
            model: To compress.
            where: Which sites; see :data:`spectrim.surgery.Where`.
            calibration: Batches to decide on, for methods that look at activations.

        Raises:
            SiteError: ``where`` matches nothing.
            OrderError: The model already carries a finer edit, or this one.
        """

    def in_rounds(
        self, model: nn.Module, count: int, *, where: Where = None, calibration: Calibration = None
    ) -> Sequence["Method"]:
        """The methods to apply one after the other, training in between, in order to do what this one does at once.

        Args:
            model: As it is before the first round.
            count: How many rounds, at least 1.
            where: As for :meth:`plan`.
            calibration: As for :meth:`plan`.

        Raises:
            UnsupportedError: The method moves towards its target while the model trains, and is applied once.
        """
        if count < 1:
            raise ValueError(f"there is at least one round, got {count}.")
        if count == 1:
            return (self,)
        raise UnsupportedError(
            f"asked for {count} rounds of {self.name}, which reaches its target while the model trains and is applied once. "
            "Leave out the rounds; spectrim.anneal_ (--anneal) says how long the way is."
        )
