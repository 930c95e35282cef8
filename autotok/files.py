"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autotok.errors import RunDirectoryError

if sys.platform != "win32":
    import fcntl


def check_folder(folder: str | Path) -> None:
    """Raise `RunDirectoryError` where files could not be written into a folder; none is made.

    For what would take long before it writes anything.
    """
    folder = Path(folder)
    with _named(folder):
        parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"'{parent}' is a file")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "read-only or not yours")


def check_output_file(path: str | Path, *, suffix: str = "") -> None:
    """Raise `RunDirectoryError` where a file could not be written, or has another suffix than its
    format; none is made.

    For what would take long before it writes it.
    """
    path = Path(path)
    check_folder(path.parent)
    if path.is_dir():
        raise RunDirectoryError(
            f"'{path}' is a folder, and a file is to be written there; give the file's own name"
        )
    if suffix and path.suffix.lower() != suffix:
        raise RunDirectoryError(
            f"'{path}' is no name of a file of this format; give one that ends in {suffix}"
        )


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Says of a folder why it cannot be written; a full disk passes."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the folder is right: whoever knows what it is of says how to go on
        raise RunDirectoryError(
            f"'{folder}' cannot be written ({error.strerror or error}); choose another output"
            " folder"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, else removed.

    Files that the block wrote beside the temporary path come along, before it.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    with _scratch(path) as folder:
        temporary = folder / path.name
        yield temporary
        if temporary.exists():
            beside = sorted(file for file in folder.iterdir() if file != temporary)
            for file in (*beside, temporary):
                _sync(file)
                os.replace(file, path.parent / file.name)
            _sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which takes its place when the block ends well.

    An older folder of that name is set aside first and removed last.
    """
    with _scratch(path) as scratch:
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
        yield fresh
        for item in [*fresh.rglob("*"), fresh]:
            _sync(item)
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)
        _sync(path.parent)


def write_text(path: Path, text: str) -> Path:
    """`path`, now holding `text` as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))  # line ends stay as they are
    return path


def write_state(path: Path, state: Mapping[str, Any]) -> Path:
    """`path`, now holding plain data and tensors in torch's own format.

    Raises:
        RunDirectoryError: the disk is full, or the folder cannot be written.
    """
    import torch

    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raises
        cause = error if isinstance(error, OSError) else error.__context__ or error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0][:100]
        raise RunDirectoryError(
            f"checkpoint '{path}' cannot be written ({reason}); free some space, or choose another"
            " folder, and start again"
        ) from error
    return path


def _sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk: a rename may otherwise get there
    before the contents do, and a power cut then leaves an empty file under the right name."""
    if path.is_dir():
        with suppress(OSError):  # some file systems, and Windows, do not sync folders
            _sync_handle(os.open(path, os.O_RDONLY))
    else:
        _sync_handle(os.open(path, os.O_RDWR))


def _sync_handle(handle: int) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `path`, locked while it is in use."""
    with _named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        folder, lock = _claimed(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _claimed(path: Path) -> tuple[Path, int | None]:
    """A new folder and its lock; another one where a sweeper was faster than the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        lock = _lock(folder, wait=True)
        if folder.is_dir():
            return folder, lock
        if lock is not None:
            os.close(lock)


def sweep_folder(folder: Path) -> None:
    """Remove what killed writers of any file or folder in `folder` left; those at work stay."""
    for left in folder.glob(".*.????????"):
        _sweep(folder / left.name[1:-9])


def _sweep(path: Path) -> None:
    """Remove what killed writers of `path` left; a folder that one had set aside comes back."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        lock = _lock(folder, wait=False) if folder.is_dir() else None
        if lock is not None:
            if (folder / "old").is_dir() and not path.exists():
                os.replace(folder / "old", path)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """An open handle that keeps others from sweeping a folder; None where that is not to be had."""
    if sys.platform == "win32":
        return None
    handle = -1
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is gone, in use, or on a file system without such locks
        if handle >= 0:
            os.close(handle)
        return None
    return handle
