"""What a person sees while a job runs: a bar in a terminal, a line now and then in a log."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Told what happens."""

    def say(self, text: str) -> None:
        """A finished sentence."""
        ...

    def step(self, done: int, text: str) -> None:
        """So many steps of the phase are done; a few words on how it goes."""
        ...

    def phase(self, name: str, *, total: int, done: int) -> AbstractContextManager[None]:
        """A phase begins, of which some steps may be done already; it ends with the block."""
        ...


class Silent:
    """Says nothing: for the processes that are not the first, and for programs."""

    def say(self, text: str) -> None:
        """Nothing."""

    def step(self, done: int, text: str) -> None:
        """Nothing."""

    @contextmanager
    def phase(self, name: str, *, total: int, done: int) -> Iterator[None]:
        """Nothing."""
        yield


class OnConsole:
    """Writes to standard error: a bar where that is a terminal, about ten lines a phase where it is not."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._name, self._total, self._said = "", 0, 0

    def say(self, text: str) -> None:
        """A line, above the bar if there is one."""
        (self._bar.console if self._bar else self.console).print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, done: int, text: str) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=text)
        elif done * 10 // self._total > self._said:
            self._said = done * 10 // self._total
            self.say(f"{self._name}: step {done}/{self._total}, {text}")

    @contextmanager
    def phase(self, name: str, *, total: int, done: int) -> Iterator[None]:
        """Show a bar for a phase."""
        self._name, self._total, self._said = name, total, done * 10 // max(1, total)
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            bar.add_task(name, total=total, completed=done, note="")
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None
