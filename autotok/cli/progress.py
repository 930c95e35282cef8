"""Progress of a search or a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import typer

import autotok

PLAIN_EVERY_S = 15.0


class StepProgress:
    """A named task from 0 to 1, with a line of detail; use as a context manager."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title, self._quiet = title, quiet
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> StepProgress:
        return self

    def _begin(self) -> None:
        if self._bar is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}"),
                console=Console(stderr=True, highlight=False),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=1.0, detail="")

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: float, detail: str, *, important: bool = False) -> None:
        """Show how far it is; a plain line at most every few seconds unless it is important.

        What is said before anything is done, such as how labels were understood, stays on screen.
        """
        if self._quiet:
            return
        self._begin()
        detail = autotok.printable(detail)
        if self._bar is not None and progress == 0.0:
            self._bar.console.print(f"{self._title}: {detail}", markup=False)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress, detail=detail)
            return
        now = time.monotonic()
        if important or progress == 0.0 or now - self._last > PLAIN_EVERY_S:
            sys.stderr.write(f"{self._title}: {100 * progress:3.0f} %  {detail}\n")
            sys.stderr.flush()
            self._last = now


class SearchProgress(StepProgress):
    """Listens to a search; with `echo`, its budgets go to stdout first."""

    def __init__(self, title: str, *, quiet: bool = False, echo: bool = False) -> None:
        super().__init__(title, quiet=quiet)
        self._echo = echo

    def __enter__(self) -> SearchProgress:
        super().__enter__()
        return self

    def __call__(self, event: autotok.Event) -> None:
        """Show one event."""
        if isinstance(event, autotok.Asked):
            for line in autotok.budget_lines(event.budgets) if self._echo else ():
                typer.echo(line)
            return
        detail, important = autotok.event_text(event)
        self.update(event.progress, detail, important=important)
