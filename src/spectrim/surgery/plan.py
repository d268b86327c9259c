"""A plan: the ordered edits a method wants, and what it leaves alone and why."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Self

from torch import nn

from spectrim.budget import Budget
from spectrim.errors import PlanError
from spectrim.surgery.edits import Act, Edit, Undo, edit_from_json


@dataclass(frozen=True)
class Skipped:
    """A candidate that is left alone."""

    site: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a method wants to do to a model, as data: print it, edit it, write it as JSON, apply it.

    Args:
        method: The method and its hyper-parameters, for people.
        model: The class of the model planned for, for people.
        edits: In the order in which they are made.
        skipped: Every candidate that is not edited, with the reason.
        before, after: Numbers that the model holds, now and when every schedule has ended.
        budget: What the method was asked to leave and what it leaves, if it was asked.
    """

    method: str
    model: str
    edits: tuple[Edit, ...]
    skipped: tuple[Skipped, ...] = field(default=())
    before: int = 0
    after: int = 0
    budget: Budget | None = None

    def __str__(self) -> str:
        """A headline and a line for each candidate."""
        names = [edit.site for edit in self.edits] + [row.site for row in self.skipped]
        width = max(map(len, names), default=0)
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        edits = f"{len(self.edits)} {'edit' if len(self.edits) == 1 else 'edits'}"
        numbers = f"{_millions(self.before)} → {_millions(self.after)} parameters"
        budget = "" if self.budget is None else f"; {self.budget}"
        lines = [f"{self.method} on {self.model}: {edits}{skipped}, {numbers}{budget}"]
        lines += [f"  {edit.site:<{width}}  {edit.summary()}" for edit in self.edits]
        lines += [f"  {row.site:<{width}}  skipped: {row.reason}" for row in self.skipped]
        return "\n".join(lines)

    def apply_(self, model: nn.Module) -> nn.Module:
        """Make every edit, or none: all are checked first, and what fails later is undone.

        Raises:
            PlanError: The plan does not fit the model, which is then as it was.
        """
        acts: list[Act] = []
        for _, alike in itertools.groupby(self.edits, key=type):
            edits = list(alike)
            acts += type(edits[0]).prepare_together(edits, model)
        if len({edit.site for edit in self.edits}) < len(self.edits):
            raise PlanError("the plan edits the same site twice. Plan again, or drop one of the edits.")
        done: list[Undo] = []
        try:
            done.extend(act() for act in acts)
        except BaseException:
            for undo in reversed(done):
                undo()
            raise
        return model

    def to_json(self) -> str:
        """A JSON document that :meth:`from_json` reads."""
        document = {
            "method": self.method,
            "model": self.model,
            "edits": [edit.to_json() for edit in self.edits],
            "skipped": [{"site": row.site, "reason": row.reason} for row in self.skipped],
            "before": self.before,
            "after": self.after,
            "budget": None if self.budget is None else self.budget.to_json(),
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: The text is no plan.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            budget = document.get("budget")
            return cls(
                method=document["method"],
                model=document["model"],
                edits=tuple(edit_from_json(edit) for edit in document["edits"]),
                skipped=tuple(Skipped(row["site"], row["reason"]) for row in document["skipped"]),
                before=document["before"],
                after=document["after"],
                budget=None if budget is None else Budget.from_json(budget),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanError(f"not a plan: {error}. Write plans with Plan.to_json().") from error


def _millions(number: int) -> str:
    """A count for people.

    >>> _millions(11_181_642), _millions(2_688)
    ('11.18 M', '2,688')
    """
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,}"
