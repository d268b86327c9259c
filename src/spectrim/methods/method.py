"""The abstract method: it plans, it does not do."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from spectrim.calibration import Calibration
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
