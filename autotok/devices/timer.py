"""`Timer`: times single runs of a model on the host, and on CUDA on the device too."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["Timer", "synchronise"]


class Timer:
    """Times single runs: until the answer is there, and on CUDA the host's and device's parts."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._alone = device.type == "cpu" and torch.get_num_threads() == 1
        self.worked: list[float] = []
        """Of one CPU thread the time it had the processor, which others take away; else as told."""
        self.host: list[float] = []
        self.device: list[float] = []

    def time_ms(self, run: Callable[[], object]) -> float:
        """Milliseconds of one run."""
        cuda = self._device.type == "cuda"
        synchronise(self._device)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
        start, own = time.perf_counter(), time.thread_time()
        if marks:
            marks[0].record(torch.cuda.current_stream(self._device))
        run()
        if marks:
            marks[1].record(torch.cuda.current_stream(self._device))
        launched = time.perf_counter()
        synchronise(self._device)
        took, own = (time.perf_counter() - start) * 1e3, (time.thread_time() - own) * 1e3
        self.worked.append(own if self._alone and own > 0.0 else took)
        if marks:
            self.host.append((launched - start) * 1e3)
            self.device.append(marks[0].elapsed_time(marks[1]))
        return took


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
