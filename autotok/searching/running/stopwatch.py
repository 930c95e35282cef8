"""`Stopwatch`: how long a command has run, and what is to be kept for its hand-over."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .time_limit import Around

__all__ = ["Stopwatch"]

_EXPORT_PER_LOADING = 8.0
"""Processor time of an export and its check over that of loading model and data: 122 s to 16 s for
the demo, once, on a busy machine."""
_LEAST_LOADING_S = 1.0
_REPORT_SHARE = 0.12
"""Time of tables, picture and report over that of an export."""
_SPIN_S = 0.05


@dataclass
class Stopwatch:
    """Runs from the start of a command."""

    begin: float = field(default_factory=time.monotonic)
    expected_export_s: float = 0.0
    _cpu: float = field(default_factory=time.process_time)

    def loaded(self) -> None:
        """Note that model and data are loaded: from that follows what an export will take.

        In processor time, so that a download does not count, and stretched as far as this machine
        is busy with other things.
        """
        spent = max(_LEAST_LOADING_S, time.process_time() - self._cpu)
        self.expected_export_s = _EXPORT_PER_LOADING * spent * _stretch()

    def around(self, timeout_s: float | None) -> Around:
        """What the time limit covers besides the search: loading before it, hand-over after it.

        An export that would take more than half of the limit is not waited for.
        """
        kept = _REPORT_SHARE * self.expected_export_s
        if timeout_s is not None and self.expected_export_s <= timeout_s / 2:
            kept += self.expected_export_s
        return Around(self.begin, kept)

    def why_no_export(self, timeout_s: float | None, seconds: float) -> str:
        """Why there is no time for the export after so many seconds; '' where there is."""
        if timeout_s is None:
            return ""
        left = timeout_s - seconds
        if self.expected_export_s <= left + max(8.0, 0.08 * timeout_s):
            return ""
        return (
            f"the time limit of {timeout_s:g} s left {max(0.0, left):.0f} s for what takes about"
            f" {self.expected_export_s:.0f} s; use `autotok export best.yaml -o model.onnx`"
        )


def _stretch() -> float:
    """Wall-clock seconds that a second of one processor takes at the moment, 1 to 8."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < _SPIN_S:
        pass
    return min(8.0, max(1.0, (time.perf_counter() - wall) / _SPIN_S))
