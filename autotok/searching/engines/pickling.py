"""What travels between driver and workers, whatever runs them; and the threads a worker may use."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

from autotok.devices.board import usable_cores
from autotok.errors import AutotokError, ConfigError, failure

from .base import Outcome


def threads_per_worker(workers: int) -> int:
    """Threads that each of some workers on this machine may use; never more than the user set."""
    share = max(1, usable_cores() // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share


def use_threads(threads: int) -> None:
    """Hold torch to so many threads, if the worker has loaded it."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def dumped(content: object, what: str = "model or data") -> bytes:
    """A factory, or a part of one, pickled.

    Raises:
        ConfigError: it cannot be.
    """
    try:
        return pickle.dumps(content)
    except Exception as error:  # pickling runs arbitrary code
        raise ConfigError(
            f"a search in other processes sends them its {what}, which cannot be pickled"
            f" ({failure(error)}); use one local worker, or a backbone by name"
        ) from error


def packed(outcome: Outcome) -> bytes:
    """The outcome pickled; one that cannot be is a failed one."""
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # pickling runs arbitrary code
        return pickle.dumps(Outcome(outcome.job, None, outcome.seconds, failure(error)))


def build_error(error: BaseException) -> tuple[type[AutotokError], str]:
    """What a factory raised, so that it travels: our errors keep their class and sentence."""
    if isinstance(error, AutotokError):
        return type(error), str(error)
    return AutotokError, f"a worker could not be built: {failure(error)}"


def rebuilt(kind: type[AutotokError], message: str) -> AutotokError:
    """The error that `build_error` took apart, whatever arguments its class wants."""
    return kind.__new__(kind, message)
