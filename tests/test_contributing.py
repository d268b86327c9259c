"""The method that CONTRIBUTING.md writes in one file keeps every law of the contract."""

import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import test_laws
from tests.contract.cases import Case
from tests.test_readme import ROOT, run_python


def _laws() -> Iterator[Any]:
    """Every law with every combination of its own parameters."""
    for name, law in vars(test_laws).items():
        if name.startswith("test_law"):
            marks = [mark for mark in getattr(law, "pytestmark", []) if mark.name == "parametrize"]
            for values in itertools.product(*(mark.args[1] for mark in marks)):
                given = {mark.args[0]: value for mark, value in zip(marks, values, strict=True)}
                yield pytest.param(law, given, id="-".join([name.removeprefix("test_"), *map(str, values)]))


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(("law", "given"), list(_laws()))
def test_the_worked_example_keeps(
    law: Callable[..., None],
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    monkeypatch.chdir(tmp_path)
    example: Any = run_python((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "CONTRIBUTING.md")
    case = Case("low rank", example["LowRank"](keep=0.25), example["LowRank"](keep=1.0))
    known = {"case": case, **given}
    wanted = inspect.signature(law).parameters
    law(**{name: known[name] if name in known else request.getfixturevalue(name) for name in wanted})
