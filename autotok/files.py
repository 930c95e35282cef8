"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autotok.errors import RunDirectoryError

__all__ = ["replacing", "replacing_folder", "write_state", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, else removed.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    with _scratch(path) as folder:
        temporary = folder / path.name
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which takes its place when the block ends well.

    An older folder of that name is set aside first and removed last.
    """
    with _scratch(path) as scratch:
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
        yield fresh
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)


def write_text(path: Path, text: str) -> Path:
    """`path`, now holding `text` as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_state(path: Path, state: Mapping[str, Any]) -> Path:
    """`path`, now holding plain data and tensors in torch's own format.

    Raises:
        RunDirectoryError: the disk is full, or the folder cannot be written.
    """
    import torch

    partial = path.with_name(f"{path.name}.partial")  # one name: a killed writer leaves one at most
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(state), file)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raises
        partial.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__ or error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0][:100]
        raise RunDirectoryError(
            f"checkpoint '{path}' cannot be written ({reason}); free some space, or choose another"
            " folder, and start again"
        ) from error
    return path


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the folder is right: whoever knows what it is of says how to go on
        raise RunDirectoryError(
            f"'{path.parent}' cannot be written ({error.strerror or error}); choose another"
            " output folder"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
