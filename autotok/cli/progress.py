"""Progress of a search or a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from autotok.errors import printable
from autotok.metrics import METRICS

if TYPE_CHECKING:
    from autotok.searching.running.events import Event

__all__ = ["SearchProgress", "StepProgress"]

PLAIN_EVERY_S = 15.0


class StepProgress:
    """A named task from 0 to 1, with a line of detail; use as a context manager."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title, self._quiet = title, quiet
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> StepProgress:
        if not self._quiet and sys.stderr.isatty():
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
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: float, detail: str, *, important: bool = False) -> None:
        """Show how far it is; a plain line at most every few seconds unless it is important.

        What is said before anything is done, such as how labels were understood, stays on screen.
        """
        if self._quiet:
            return
        detail = printable(detail)
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
    """Listens to a search."""

    def __enter__(self) -> SearchProgress:
        super().__enter__()
        return self

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from autotok.searching.running.events import (
            BudgetsResolved,
            Done,
            FinalEvaluation,
            FineTuneStep,
            FineTuning,
            Promoted,
            Started,
            TrialFinished,
            Working,
        )

        important, detail = False, ""
        if isinstance(event, Working):
            important, detail = True, event.text
        elif isinstance(event, Started):
            again = f", {event.finished} trials are there already" if event.resumed else ""
            important, detail = True, f"up to {event.n_trials} configurations{again}"
        elif isinstance(event, BudgetsResolved):
            important, detail = True, f"budget: {'; '.join(b.echo for b in event.budgets)}"
        elif isinstance(event, TrialFinished):
            detail = (
                f"{event.evaluated} configurations evaluated, {event.front} on the front;"
                f" last: {event_line(event.record)}"
            )
        elif isinstance(event, Promoted):
            detail = f"trial {event.number} is undominated: on to {event.num_images} images"
        elif isinstance(event, FineTuneStep):
            detail = event.text
        elif isinstance(event, FineTuning):
            important = True
            detail = f"fine-tuning {event.config.method} for {event.length} (trial {event.number})"
        elif isinstance(event, FinalEvaluation):
            important = True
            detail = f"final evaluation {event.done} of {event.total}: {event_line(event.record)}"
        elif isinstance(event, Done):
            important = True
            detail = f"{event.evaluated} configurations evaluated, {event.front} on the front"
        self.update(event.progress, detail, important=important)


def event_line(record: Any) -> str:
    """A trial in a few words."""
    method = record.config.method if record.config is not None else "?"
    if record.score is None:
        return f"{method} {record.state} {record.reason}".strip()
    score, quality = record.score, METRICS[record.score.metric].text(record.score.value)
    macs = f", {record.costs.macs / 1e9:.2f} GFLOPs" if record.costs is not None else ""
    return f"{method} {score.metric} {quality} on {score.num_images} images{macs}"
