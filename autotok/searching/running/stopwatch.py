"""`Stopwatch`: how long a command has run, and what is to be kept for its hand-over."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .time_limit import Around

_EXPORT_PER_LOADING = 7.0
"""Processor time of an export and its check over that of loading model and data, of the demo: 5 on
one processor, up to 8 on another."""
_LEAST_LOADING_S = 1.0
_REPORT_SHARE = 0.2
"""Time of token maps, tables, picture and report over that of an export: 2.6 to 13 s."""
# long beside the few milliseconds for which a scheduler gives the processor away
_SPIN_S = 0.2


@dataclass
class Stopwatch:
    """Runs from the start of a command."""

    begin: float = field(default_factory=time.monotonic)
    export_cpu_s: float = 0.0
    """Processor time that an export is expected to take."""
    stretch: Callable[[], float] = field(default=lambda: busyness())
    """How many times slower than undisturbed this machine is at the moment."""
    _cpu: float = field(default_factory=time.process_time)

    def loaded(self) -> None:
        """Note that model and data are loaded: from that follows what an export will take.

        In processor time, so that a download does not count.
        """
        spent = max(_LEAST_LOADING_S, time.process_time() - self._cpu)
        self.export_cpu_s = _EXPORT_PER_LOADING * spent

    def around(self, timeout_s: float | None) -> Around:
        """What the time limit covers besides the search: loading before it, hand-over after it.

        An export that would take more than half of the limit is not waited for.
        """
        expected = self.export_cpu_s * self.stretch()
        kept = _REPORT_SHARE * expected
        if timeout_s is not None and expected <= timeout_s / 2:
            kept += expected
        return Around(self.begin, kept)

    def why_no_export(self, timeout_s: float | None, seconds: float, folder: Path) -> str:
        """Why there is no time for the export after so many seconds, and the command that makes up
        for it in the run's folder; '' where there is time."""
        if timeout_s is None:
            return ""
        left, expected = timeout_s - seconds, self.export_cpu_s * self.stretch()
        if expected <= left + max(8.0, 0.08 * timeout_s):
            return ""
        best, file = (shlex.quote(str(folder / name)) for name in ("best.yaml", "model.onnx"))
        return (
            f"the time limit of {timeout_s:g} s left {max(0.0, left):.0f} s for what takes about"
            f" {expected:.0f} s; use `autotok export {best} -o {file}`"
        )


def busyness() -> float:
    """Wall-clock seconds that a second of one processor takes at the moment, 1 to 8."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < _SPIN_S:
        pass
    return min(8.0, max(1.0, (time.perf_counter() - wall) / _SPIN_S))
