"""Signals that ask for an end: once for an orderly one, twice for one at once.

SIGTERM and SIGHUP mean what Ctrl-C (SIGINT) means. The handlers are set here whatever whoever
started the process had set for SIGINT (a shell ignores it for its background jobs); SIGTERM and
SIGHUP stay ignored where they were, as `nohup` wants it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """Asked by a signal to end; `signal_name` says which."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"interrupted by {signal_name}")
        self.signal_name = signal_name


class Interrupts:
    """Turns signals into `Interrupted` while its block runs; in the main thread only."""

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        """`on_request` is told the name of a signal that has to wait, see `patient`."""
        self._on_request = on_request
        self._before: dict[int, Any] = {}
        self._patience = 0
        self.asked = ""
        """Name of the signal that asked for an orderly end; '' as long as none did."""

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if number == signal.SIGINT or before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """While its block runs, the first signal is noted in `asked` only; the second raises.

        Raises:
            Interrupted: at the end, if a signal was noted.
        """
        self._patience += 1
        try:
            yield
        finally:
            self._patience -= 1
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` if a signal was noted."""
        if self.asked:
            raise Interrupted(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._patience or self.asked:
            raise Interrupted(name)
        self.asked = name
        if self._on_request is not None:
            with contextlib.suppress(RuntimeError):  # the stream it writes to may be in mid-write
                self._on_request(name)
