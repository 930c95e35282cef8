"""The final evaluation on what nobody foresaw: one sentence, and where its traceback is."""

from __future__ import annotations

import errno
import logging
import tempfile
import traceback
from pathlib import Path

import autotok

_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception) -> str:
    """What went wrong in one sentence; the traceback is in a file, or was just shown with -v.

    Files and memory are named as such; anything else is a fault of autotok, and said to be one.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        what = f"the disk is full{_where(error)}; make room, or choose another output"
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        what = f"{error.strerror}{_where(error)}; choose another path"
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = "the memory is exhausted; use a smaller batch or model, or fewer workers"
    elif isinstance(error, ImportError):
        what = f"a package cannot be imported ({error}); see `autotok doctor`"
    else:
        what = f"unexpected {type(error).__name__}: {error}; this is a fault of autotok, report it"
    return f"{_one_line(what)} ({_details(error)})"


def _where(error: OSError) -> str:
    return "" if error.filename is None else f": '{error.filename}'"


def _one_line(text: str) -> str:
    return str(autotok.AutotokError(" ".join(text.split())[:600]))


def _details(error: Exception) -> str:
    """Where the traceback went."""
    text = "".join(traceback.format_exception(error))
    logger = logging.getLogger("autotok")
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", text.rstrip())
        return "details above"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="autotok-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        return "details with -v"
    return f"details in {Path(file.name)}"
