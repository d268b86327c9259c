"""Imports point down: the floors of the house, read from the syntax trees.

Nothing is imported to find out, so the test also covers imports inside functions and under ``if TYPE_CHECKING``, and it
cannot be fooled by what happens to be installed. The last tests give the checker small wrong houses, so that we know
that it can fail.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "spectrim"

# A room is a folder or a file directly under src/spectrim. It may import from itself and from lower floors only.
FLOOR = {
    "errors": 0,
    "budget": 0,
    "schedules": 0,
    "truncation": 0,
    "transforms": 0,
    "kernels": 0,
    "calibration": 1,
    "nn": 1,
    "surgery": 2,
    "measure": 2,
    "methods": 3,
    "artifact": 3,
    "repair": 3,
    "report": 3,
    "verbs": 4,
    "__init__": 4,
    "training": 5,
    "zoo": 5,
    "cli": 6,
    "__main__": 6,
}

# Rooms of floor 0 are drawers of one cupboard: they may use each other as long as there is no cycle; so does measure use
# surgery, and methods ask both. The rooms of floor 3 do not know each other: a file loads without the paper that made it,
# a report prints without the file.
SHARED_FLOORS = {0, 2, 4, 5, 6}

CORE_FLOORS = {0, 1, 2, 3, 4}
CORE_LIBRARIES = {"torch", "filelock", "numpy", "scipy", "safetensors", "jaxtyping"}  # filelock comes with torch
# The page is made by a room of floor 3; its libraries are an extra and may be named inside functions only.
LAZY_LIBRARIES = {"report": {"rich", "matplotlib", "jinja2"}, "measure": {"onnx", "onnxruntime"}}
# Files that need a library to be defined at all; others name them inside functions only.
ALONE = {"kernels/banded_triton.py": "triton"}
ONLY_IN = {"accelerate": "training/", "typer": "cli/"}


class Import:
    """One import statement: what, from which file, which line, and whether it runs when the file is imported."""

    def __init__(self, target: str, path: Path, line: int, *, at_import_time: bool) -> None:
        self.target = target
        self.path = path
        self.line = line
        self.at_import_time = at_import_time

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line} imports {self.target}"


def room(path: Path) -> str:
    """The room of a file given relative to src/spectrim."""
    return path.parts[0].removesuffix(".py")


def imports(source: str, path: Path) -> list[Import]:
    """All imports of a file, relative ones resolved; ``path`` is relative to src/spectrim."""
    package = ["spectrim", *path.parent.parts]
    found = []

    def walk(node: ast.AST, *, at_import_time: bool) -> None:
        for child in ast.iter_child_nodes(node):
            targets: list[str] = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *(child.module.split(".") if child.module else [])])
                # `from spectrim import nn` names a room by its alias, `from spectrim.nn import X` by its module
                targets = [f"{module}.{alias.name}" for alias in child.names] if module == "spectrim" else [module]
            found.extend(Import(target, path, child.lineno, at_import_time=at_import_time) for target in targets)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            walk(child, at_import_time=at_import_time and not inside and not _is_type_checking(child))

    walk(ast.parse(source), at_import_time=True)
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def complaints(house: dict[str, str]) -> list[str]:
    """What is wrong with a house, given as {path relative to src/spectrim: source}."""
    wrong = []
    edges: set[tuple[str, str]] = set()
    for name, source in sorted(house.items()):
        path = Path(name)
        here = room(path)
        if here not in FLOOR:
            wrong.append(f"{name}: the room {here!r} is on no floor. Give it one in tests/test_architecture.py.")
            continue
        for item in imports(source, path):
            top, _, rest = item.target.partition(".")
            if top == "spectrim":
                there = rest.partition(".")[0] or "__init__"
                there = there if there in FLOOR else "__init__"  # a name of the public API
                edges.add((here, there))
                wrong += _wrong_file(item)
                wrong += _wrong_direction(item, here, there)
            else:
                wrong += _wrong_library(item, here, top)
    wrong += [f"{a} and {b} import each other" for a, b in sorted(edges) if a < b and (b, a) in edges]
    return wrong


def _wrong_file(item: Import) -> list[str]:
    alone = {f"spectrim.{file.removesuffix('.py').replace('/', '.')}.": library for file, library in ALONE.items()}
    needs = next((library for name, library in alone.items() if f"{item.target}.".startswith(name)), None)
    return (
        [f"{item}: a file that needs {needs}, to be imported inside a function"]
        if needs and item.at_import_time
        else []
    )


def _wrong_direction(item: Import, here: str, there: str) -> list[str]:
    if here == there or FLOOR[there] < FLOOR[here]:
        return []
    if FLOOR[there] > FLOOR[here]:
        return [f"{item}: floor {FLOOR[here]} may not look up to floor {FLOOR[there]}"]
    if FLOOR[here] in SHARED_FLOORS:
        return []
    return [f"{item}: the rooms of floor {FLOOR[here]} do not know each other"]


def _wrong_library(item: Import, here: str, top: str) -> list[str]:
    if top in sys.stdlib_module_names:
        return []
    wrong = []
    if ALONE.get(item.path.as_posix()) == top:
        return []
    if FLOOR[here] in CORE_FLOORS and top not in CORE_LIBRARIES:
        lazy = top in LAZY_LIBRARIES.get(here, set())
        if not lazy:
            wrong.append(f"{item}: the core uses {', '.join(sorted(CORE_LIBRARIES))} and nothing else")
        elif item.at_import_time:
            wrong.append(f"{item}: an extra, to be imported inside the function that needs it")
    if FLOOR[here] == 6 and top in {"torch", "numpy", "scipy"} and item.at_import_time:
        wrong.append(f"{item}: --help has to appear at once; import it inside the command")
    if top in ONLY_IN and not item.path.as_posix().startswith(ONLY_IN[top]):
        wrong.append(f"{item}: only {ONLY_IN[top]} may")
    return wrong


def test_imports_point_down():
    house = {p.relative_to(SRC).as_posix(): p.read_text(encoding="utf-8") for p in SRC.rglob("*.py")}
    assert len(house) > 10
    assert complaints(house) == []


@pytest.mark.parametrize(
    ("house", "complaint"),
    [
        ({"nn/a.py": "from spectrim.methods.b import C"}, "may not look up"),
        ({"nn/a.py": "from ..methods import b"}, "may not look up"),
        ({"nn/a.py": "def f():\n    import spectrim.cli"}, "may not look up"),
        ({"transforms/a.py": "from spectrim import plan"}, "may not look up"),
        ({"transforms/a.py": "import spectrim"}, "may not look up"),
        ({"artifact/a.py": "from spectrim.methods import b"}, "do not know each other"),
        ({"report/a.py": "from spectrim.artifact import read"}, "do not know each other"),
        ({"surgery/a.py": "from spectrim.methods import b"}, "may not look up"),
        (
            {"measure/a.py": "from spectrim.surgery import b", "surgery/b.py": "from spectrim.measure import a"},
            "import each other",
        ),
        ({"surgery/a.py": "import torch_pruning"}, "the core uses"),
        ({"nn/a.py": "import pandas"}, "the core uses"),
        ({"kernels/a.py": "import triton"}, "the core uses"),
        ({"kernels/a.py": "from spectrim.kernels.banded_triton import f"}, "a file that needs triton"),
        ({"nn/a.py": "if True:\n    from rich import table"}, "the core uses"),
        ({"report/page.py": "import matplotlib"}, "inside the function"),
        ({"cli/a.py": "import torch"}, "--help has to appear at once"),
        ({"zoo/a.py": "import accelerate"}, "only training/ may"),
        ({"attic/a.py": ""}, "on no floor"),
        (
            {"training/a.py": "from spectrim.zoo import b", "zoo/b.py": "from spectrim.training import a"},
            "import each other",
        ),
    ],
)
def test_a_wrong_house_is_noticed(house: dict[str, str], complaint: str):
    assert any(complaint in line for line in complaints(house)), complaints(house)


def test_a_right_house_is_left_in_peace():
    house = {
        "nn/a.py": "import math\nimport torch\nfrom spectrim.transforms import dct\nfrom .component import Codec",
        "report/page.py": "def f():\n    import matplotlib.pyplot as plt",
        "kernels/banded_triton.py": "import triton",
        "kernels/a.py": "def f():\n    from spectrim.kernels.banded_triton import g",
        "methods/a.py": "from spectrim.measure import macs\nfrom spectrim.surgery.channels import groups",
        "measure/a.py": "from spectrim.surgery.sites import walk",
        "cli/a.py": "import typer\ndef f():\n    import torch\n    import spectrim as st",
        "__init__.py": "from spectrim.verbs import plan as plan",
        "__main__.py": "from spectrim.cli import main",
    }
    assert complaints(house) == []


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import spectrim.cli", ["torch", "numpy", "matplotlib", "accelerate"]),
        ("import spectrim", ["torch_pruning", "typer", "rich", "matplotlib", "accelerate", "torchvision", "timm"]),
        ("import json", ["torch"]),  # and the proof that the proof can fail is below
    ],
)
def test_what_is_heavy_is_not_imported(statement: str, forbidden: list[str]):
    assert _imported(statement).isdisjoint(forbidden)


def test_the_proof_of_lightness_can_fail():
    assert "torch" in _imported("import torch")


def _imported(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*(name.partition('.')[0] for name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())
