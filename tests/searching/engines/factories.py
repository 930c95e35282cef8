"""Workers for the engine tests; what is here must be importable in other processes."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.errors import UnknownName
from autotok.searching.space.problem import Problem, Tuned


@dataclass
class TellsItsGpu:
    """Writes down which GPU the process sees."""

    folder: Path

    def __call__(self) -> "FakeWorker":
        with open(self.folder / "seen", "a", encoding="utf-8") as file:
            file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        return FakeWorker(self.folder)


@dataclass
class FakeWorker:
    """Formula for accuracy; the first image says what is to go wrong."""

    folder: Path
    steps: int = 0
    delay_s: float = 0.0
    gate: int | None = None

    def __post_init__(self) -> None:
        self._accuracy = FakeEvaluator(vit_facts())
        with open(self.folder / "built", "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")

    def evaluate(self, config: CompressionConfig, start: int, stop: int) -> FakeTally:
        trouble(start, self.folder)
        time.sleep(self.delay_s)
        return self._accuracy(config, start, stop)

    @property
    def finetune(self) -> Callable[[CompressionConfig], Tuned] | None:
        return self._finetune if self.steps else None

    def _finetune(self, config: CompressionConfig) -> Tuned:
        """Counts steps in a file and goes on from there; `log` says who did which step. At step
        `gate` it waits for a file `go`."""
        checkpoint = self.folder / f"{config.config_id}.step"
        begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(begin, self.steps):
            time.sleep(self.delay_s)
            while step == self.gate and not (self.folder / "go").exists():
                time.sleep(0.02)
            with open(self.folder / f"{config.config_id}.log", "a", encoding="utf-8") as log:
                log.write(f"{step} {os.getpid()}\n")
            partial = checkpoint.with_suffix(".part")
            partial.write_text(str(step + 1))
            os.replace(partial, checkpoint)
        return Tuned(self.steps, self.steps * 8, 0.5, 0.1)


KILL_ONCE, KILL_ALWAYS, HANG, SEGFAULT, RAISE = range(1001, 1006)


def trouble(start: int, folder: Path) -> None:
    if start == KILL_ALWAYS or (start == KILL_ONCE and not (folder / "killed").exists()):
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if start == HANG:
        time.sleep(600.0)
    if start == SEGFAULT:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)
    if start == RAISE:
        raise ValueError("no such image")


@dataclass(frozen=True)
class Workers:
    """A factory of `FakeWorker`."""

    folder: Path
    steps: int = 0
    delay_s: float = 0.0
    gate: int | None = None

    def __call__(self) -> FakeWorker:
        return FakeWorker(self.folder, self.steps, self.delay_s, self.gate)


def fake_worker() -> Problem:
    return fake_problem()


def unknown_backbone() -> Problem:
    raise UnknownName("backbone", "autoforma", ["autoformer_demo"])


def broken() -> Problem:
    raise ZeroDivisionError("nothing to divide")


def dead_on_arrival() -> Problem:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@dataclass(frozen=True)
class SlowToLive:
    """Workers that are killed as they start, the first `deaths` of them."""

    folder: Path
    deaths: int

    def __call__(self) -> FakeWorker:
        worker = FakeWorker(self.folder)
        if len((self.folder / "built").read_text().split()) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return worker


def leaves() -> Problem:
    raise SystemExit("no licence")


class NoPickle:
    def __call__(self) -> Problem:
        return fake_problem()

    def __reduce__(self) -> str:
        raise TypeError("cannot pickle a model with a lambda in it")
