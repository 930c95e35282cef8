"""The journal file of a study: read at once whatever its length, and mended after a kill.

Optuna replays a journal from its first line. Three things in it grow with the study: every note for
dashboards copies all earlier ones, every trial parses the same few distributions again, and where
each line begins is remembered. Here notes of trials, which only viewers read, are passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult

if sys.platform != "win32":
    import fcntl

_BLOCK = 1 << 20
"""Bytes of a journal read at a time, from its end."""
_NOTE = re.compile(
    rb'\{"op_code":3,"worker_id":"[^"]*","study_id":\d+,"system_attr":\{"dashboard:\d'
)
"""How the line of a trial's note begins."""
_PASSED_OVER: dict[str, Any] = {
    "op_code": JournalOperation.SET_STUDY_SYSTEM_ATTR,
    "worker_id": "",
    "study_id": -1,
    "system_attr": {},
}
"""What such a line counts as: something about no study."""


def open_journal(path: Path) -> JournalStorage:
    """The storage that a journal file holds, made if need be."""
    lock = JournalFileOpenLock(str(path))
    return _Journal(_Lines(str(path), lock_obj=lock))


@contextlib.contextmanager
def at_once(storage: BaseStorage) -> Iterator[None]:
    """Inside, what is written to a journal is collected; it goes to disk at the end, in its order,
    with one wait for the disk instead of one for each line. Nothing is to be read inside."""
    if not isinstance(storage, _Journal) or storage.collected is not None:
        yield
        return
    storage.collected = []
    try:
        yield
    finally:
        storage.write_collected()


class _Lines(JournalFileBackend):
    """Optuna's file, of which only the end of what was read is remembered."""

    _count = _end = 0
    """Lines that were read, and their bytes."""

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The operations from one number on. A last line that is not whole is left for the next
        time: somebody may be writing it."""
        if log_number_from != self._count:
            self._count = self._end = 0
        with open(self._file_path, "rb") as file:
            file.seek(self._end)
            fault: ValueError | None = None
            for line in file:
                if fault is not None:
                    raise fault
                if not line.endswith(b"\n"):
                    break
                try:
                    log = _PASSED_OVER if _NOTE.match(line) else json.loads(line.decode())
                except ValueError as error:
                    fault = error
                    continue
                self._count += 1
                self._end += len(line)
                if self._count > log_number_from:
                    yield log


class _Journal(JournalStorage):
    """Optuna's, with a replay whose time does not grow with the square of the trials."""

    _replay_result: JournalStorageReplayResult
    collected: list[dict[str, Any]] | None = None
    """Lines that wait for the end of `at_once`."""

    def write_collected(self) -> None:
        """Write what was collected, and go on line by line."""
        lines, self.collected = self.collected, None
        if lines:
            self._backend.append_logs(lines)
            with self._thread_lock:
                self._sync_with_backend()

    def _write_log(self, op_code: int, extra_fields: dict[str, Any]) -> None:
        if self.collected is None:
            super()._write_log(op_code, extra_fields)
            return
        worker = self._replay_result.worker_id
        self.collected.append({"op_code": op_code, "worker_id": worker, **extra_fields})

    def _sync_with_backend(self) -> None:
        if not isinstance(self._replay_result, _Replay):  # the first of all, nothing was read yet
            self._replay_result = _Replay(self._worker_id_prefix)
        if self.collected is None:
            super()._sync_with_backend()


class _Replay(JournalStorageReplayResult):
    """What the lines of a journal come to."""

    def _apply_set_study_system_attr(self, log: dict[str, Any]) -> None:
        """In place; who reads them gets a copy from Optuna, or changes nothing."""
        if self._study_exists(log["study_id"], log):
            self._studies[log["study_id"]].system_attrs.update(log["system_attr"])

    def _apply_create_trial(self, log: dict[str, Any]) -> None:
        """With distributions shared among trials."""
        before = len(self._trials)
        super()._apply_create_trial({**log, "distributions": {}, "params": {}})
        if len(self._trials) > before:
            trial = self._trials[before]
            known = _distributions(tuple(log.get("distributions", {}).items()))
            trial._distributions = known
            trial._params = {
                k: known[k].to_external_repr(p) for k, p in log.get("params", {}).items()
            }

    def _apply_set_trial_user_attr(self, log: dict[str, Any]) -> None:
        """In place: nobody else has a trial that is not finished."""
        trial_id = log["trial_id"]
        if self._trial_exists_and_updatable(trial_id, log):
            self._trials[trial_id].user_attrs.update(log["user_attr"])


@cache
def _distributions(texts: tuple[tuple[str, str], ...]) -> dict[str, BaseDistribution]:
    """By name, of their JSON; nobody changes them."""
    return {name: _distribution(text) for name, text in texts}


@cache
def _distribution(text: str) -> BaseDistribution:
    """Of its JSON; nobody changes one."""
    return json_to_distribution(text)


# --- the journal of a killed process, made usable again


def hold_journal(path: Path) -> IO[bytes]:
    """The journal, repaired unless another process has it open; held for as long as it is open.

    A lock or an unfinished line of a live process is its own affair.
    """
    file = open(path, "ab")
    if _locked(file, exclusive=True):
        repair_journal(path)
    _locked(file, exclusive=False)
    return file


def _locked(file: IO[bytes], *, exclusive: bool) -> bool:
    """Try to lock for oneself, or share; True as well where nobody can tell."""
    if sys.platform != "win32":
        kind = fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            return False
        except OSError:  # a file system without such locks
            pass
    return True


def repair_journal(path: Path) -> None:
    """Make a journal usable that a killed process left: no stale lock, no half-written last line.

    A line is one whole operation: cutting an unfinished one loses nothing that was confirmed.
    """
    if not path.exists():
        return
    for stale in path.parent.glob(f"{path.name}.lock*"):
        stale.unlink(missing_ok=True)
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        whole = _whole_lines(file, size)
        if whole < size:
            file.truncate(whole)


def _whole_lines(file: IO[bytes], size: int) -> int:
    """Bytes up to and with the last line break, however long what follows it is."""
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
