"""Timing of several cases side by side, and the file that a benchmark leaves behind.

Conventions: cases take turns round by round in alternating order, so that a busy minute of the machine hits all of
them; each figure is milliseconds per call, wall clock and processor time of this process. The minimum over the rounds
is the figure closest to the machine; a ratio is one of minima. Outputs are compared before anything is timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spectrim.measure.surroundings import hardware, versions

RESULTS = Path(__file__).parent / "results"


def _commit() -> str | None:
    """Of the working tree; dirty if anything but documents and measured numbers, which a benchmark writes itself, differs from it.

    Where a copy of the tree is measured, which knows no history, ``SPECTRIM_COMMIT`` says what it is a copy of.
    """
    if told := os.environ.get("SPECTRIM_COMMIT"):
        return told

    def git(*words: str) -> str:
        try:
            asked = subprocess.run(
                ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:  # there is no git
            return ""
        return asked.stdout.strip()

    found = git("describe", "--always", "--abbrev=12")
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs", ":!README.md", ":!CHANGELOG.md")
    return (found + "-dirty" * bool(changed)) or None


COMMIT = _commit()
"""What was measured: taken when the program starts, as the working tree may move on while it runs."""


@dataclass
class Times:
    """Milliseconds per call of one case, a figure per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float]:
        """Minima and the median, rounded to a microsecond."""
        return {
            "cpu_ms": round(min(self.cpu), 3),
            "wall_ms": round(min(self.wall), 3),
            "wall_median_ms": round(statistics.median(self.wall), 3),
        }


def times(cases: Mapping[str, Callable[[], object]], *, rounds: int, fill_ms: float = 20.0) -> dict[str, Times]:
    """Run every case once per round, in alternating order.

    Args:
        cases: By name; each is called without arguments.
        rounds: How many figures to take of each.
        fill_ms: A figure averages as many calls as fill this time, at least one; 0 for exactly one. One more before them does not count.
    """
    found = {name: Times() for name in cases}
    repeats: dict[str, int] = {}
    for name, case in cases.items():
        took = _seconds(case)
        if took < fill_ms / 1000:  # the first call warms up, the second one tells
            took = _seconds(case)
        repeats[name] = max(1, int(fill_ms / 1000 / max(took, 1e-7)))
    order = list(cases)
    for _ in range(rounds):
        for name in order:
            cases[name]()  # a network that runs by itself finds its weights in the cache; another one ran before
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                cases[name]()
            found[name].wall.append((time.perf_counter() - wall) * 1000 / repeats[name])
            found[name].cpu.append((time.process_time() - cpu) * 1000 / repeats[name])
        order.reverse()
    return found


def _seconds(case: Callable[[], object]) -> float:
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def once(case: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of a single call that is too long to repeat, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = case()
    took = Times([(time.perf_counter() - wall) * 1000], [(time.process_time() - cpu) * 1000])
    return result, took.to_json()


def write(name: str, rows: Sequence[Mapping[str, Any]], *, seed: int, out: Path | None = None, **more: Any) -> Path:
    """Write ``results/NAME.json``, or ``out``: rows, what they were measured with, and what else the benchmark has to say."""
    document = {
        "rows": list(rows),
        **more,
        "hardware": hardware(),
        "versions": versions(),
        "commit": COMMIT,
        "seed": seed,
    }
    path = RESULTS / f"{name}.json" if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def merged(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows in place of those of the same name that ``results/NAME.json`` has, or behind them."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return [*({row["name"]: row for row in found} | {row["name"]: row for row in rows}).values()]


def options(description: str, *, rounds: int, settings: int = 0) -> argparse.Namespace:
    """The command line that the benchmarks share; sets the number of threads.

    Args:
        description: Of the benchmark.
        rounds: Figures per case, if no other number is asked for.
        settings: How many settings there are, where some of them may be asked for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="figures per case (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    if settings:
        numbers = range(settings)
        parser.add_argument("--setting", type=int, nargs="+", choices=numbers, default=numbers, help="these, not all")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    return chosen
