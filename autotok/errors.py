"""Every error a caller can cause.

    AutotokError                 exit code 1
    +-- UsageError               2   a wrong name, value or combination
    |   +-- ConfigError              a configuration, space, study or target file
    |   +-- UnknownName              a method, backbone, target ... that is not registered
    |   +-- UnsupportedBackbone      a model no adapter can run
    |   +-- IncompatibleMethod       a method whose needs this backbone cannot meet
    |   +-- CheckpointError          weights that cannot be read or do not fit
    |   +-- DataError                images that cannot be read
    |   +-- RunDirectoryError        an output folder that cannot be used
    |   |   +-- StudyTaken               a study of another run, or in use
    |   +-- ExportError              a model that cannot be exported, or whose export is wrong
    +-- NonFiniteOutput          1   a model whose output is not a number
    +-- Diverged                 1   a training whose loss left all bounds
    +-- StorageUnreachable       1   the study's database does not answer
    +-- NothingEvaluated         1   a search in which no trial came to an end
    +-- InfeasibleBudget         3   nothing in the space meets the budget
    +-- DeviceUnreachable        4   the device to measure on is gone

Messages are one sentence: what was asked, what is allowed, what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LISTED_BY_A_VERB = ("method", "backbone", "target")
"""Kinds of names that `autotok methods` and so on list."""
_ENDLESS = re.compile(r"\S{300,}")


class AutotokError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    What it says is one line of printable text, whatever the names and values that it quotes.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = printable(super().__str__())
        return _ENDLESS.sub(lambda word: f"{word[0][:120]}...{word[0][-60:]}", text)


class UsageError(AutotokError, ValueError):
    """The caller asked for something that is not allowed."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration or YAML file says something that cannot be."""


class UnknownName(UsageError):
    """A name that is not registered; the message names the nearest known one.

    Of more than `show` names it gives the number, and the command of `see` that lists them; where
    there is none, the verb that lists this kind, if one does.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, show: int = 40, see: str = ""
    ) -> None:
        choices = sorted(known)
        listed = ", ".join(choices)
        see = see or (f"autotok {kind}s" if kind in LISTED_BY_A_VERB else "")
        if len(choices) > show and see:
            listed = f"{len(choices)} names, see `{see}`"
        super().__init__(f"{kind} '{name}' is unknown;{nearest(name, choices)} known: {listed}")


class UnsupportedBackbone(UsageError):
    """No adapter runs this model; the message names the first check that failed."""


class IncompatibleMethod(UsageError):
    """The backbone lacks something that the method requires."""


class CheckpointError(UsageError):
    """A weight file that cannot be read, or that does not fit the model."""


class DataError(UsageError):
    """A data set or image that cannot be read."""


class RunDirectoryError(UsageError):
    """An output folder that cannot be created, written or resumed."""


class StudyTaken(RunDirectoryError):
    """A study that belongs to another run or question, or that another process works on."""


class ExportError(UsageError):
    """A model that cannot be exported, or whose exported file disagrees with it."""


class NonFiniteOutput(AutotokError):
    """A model whose logits are NaN or infinite: the trial fails, the search goes on."""


class Diverged(AutotokError):
    """A training whose loss is no number or far above its start; the message names the step."""


class StorageUnreachable(AutotokError):
    """The database that a study lives in does not answer; finished trials are in it."""


class NothingEvaluated(AutotokError):
    """A search in which no trial gave a quality; the message says what was missing."""


class InfeasibleBudget(AutotokError):
    """No configuration meets the budget; the message names the nearest feasible one."""

    exit_code = 3


class DeviceUnreachable(AutotokError):
    """The device that should measure does not answer."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """` did you mean 'x'?` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" did you mean '{close[0]}'?" if close else ""


def printable(text: str) -> str:
    """The text on one line, with control characters and what is no Unicode written as escapes:
    the names of files and folders are anybody's."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def misfit(error: BaseException) -> str:
    """The last line of what torch says of tensors that do not fit, or the exception's kind."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:160] if lines else type(error).__name__


def failure(error: BaseException) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return (
        f"out of memory ({words})"
        if "out of memory" in words or isinstance(error, MemoryError)
        else words
    )
