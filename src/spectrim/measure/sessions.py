"""How long onnxruntime takes for a file, every model in a process of its own.

Several sessions in one process share threads and memory and read two to three times wrong, so each model gets a worker;
the workers live at the same time but take turns, one round each, like the models of :func:`paired_latency`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from spectrim.errors import SpectrimError
from spectrim.measure.clock import Comparison, Latency

_WORKER = Path(__file__).with_name("onnx_worker.py")


def session_latency(
    files: Mapping[str, Path | str],
    inputs: Sequence[NDArray[Any]],
    *,
    rounds: int = 20,
    warmup: int = 3,
    threads: int = 1,
) -> Comparison:
    """Time ONNX files in onnxruntime on the CPU, in turns, one process per file.

    Args:
        files: ONNX files by the names to report; the first is the reference.
        inputs: Arrays for the inputs of every file, in the order the files declare them.
        rounds: How many figures to take of each; a figure averages as many calls as fill five milliseconds.
        warmup: Calls of each before the first round.
        threads: Threads per session.

    Raises:
        SpectrimError: A file does not load or does not run, or onnxruntime is not installed.
        ValueError: Nothing to measure, fewer than one round, or negative warm-up.
    """
    if not files or rounds < 1 or warmup < 0 or threads < 1:
        raise ValueError(
            f"a measurement needs a file, a round, a thread and no negative warm-up, "
            f"got {len(files)} files, rounds={rounds}, threads={threads}, warmup={warmup}."
        )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        arrays = Path(folder) / "inputs.npz"
        np.savez(arrays, *inputs)
        workers: dict[str, _Worker] = {}
        for name, file in files.items():
            workers[name] = stack.enter_context(_Worker(name, Path(file), arrays, threads=threads, warmup=warmup))
        times: dict[str, list[float]] = {name: [] for name in files}
        order = list(files)
        for _ in range(rounds):
            for name in order:
                times[name].append(workers[name].round_ms())
            order.reverse()
        return Comparison(
            {
                name: Latency(
                    rounds_ms=tuple(times[name]),
                    repeats=workers[name].repeats,
                    threads=threads,
                    device="onnxruntime cpu",
                )
                for name in files
            }
        )


class _Worker:
    """One process with one session; it measures a round when told to, and waits otherwise."""

    def __init__(self, name: str, file: Path, arrays: Path, *, threads: int, warmup: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker; a pipe could fill up
        # -P keeps the worker's own folder off the import path.
        command = [sys.executable, "-P", str(_WORKER), str(file), str(arrays), str(threads), str(warmup)]
        self._process = subprocess.Popen(  # noqa: S603 - our own script, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.repeats = 0

    def __enter__(self) -> Self:
        try:
            self.repeats = int(self._answer(b""))
        except BaseException:
            self.__exit__()
            raise
        return self

    def round_ms(self) -> float:
        return self._answer(b"round\n")

    def _answer(self, question: bytes) -> float:
        """Ask, and wait for a line; a worker that has died closes its output, and its last words are the reason."""
        questions, answers = self._pipes()
        with suppress(BrokenPipeError):
            questions.write(question)
            questions.flush()
        line = answers.readline()
        if not line:
            self._errors.seek(0)
            words = self._errors.read().decode(errors="replace").strip().splitlines()
            raise SpectrimError(
                f"timing {self.name!r} in onnxruntime failed: {words[-1] if words else 'no reason given'}"
            )
        return float(line)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        return cast(tuple[IO[bytes], IO[bytes]], (self._process.stdin, self._process.stdout))  # both were asked for

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (*self._pipes(), self._errors):
            with suppress(BrokenPipeError):
                pipe.close()
