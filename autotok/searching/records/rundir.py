"""`RunDirectory`: where a run lives. Everything is written beside its name and then renamed."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import yaml

from autotok.documents import Place, read_yaml
from autotok.errors import ConfigError, RunDirectoryError
from autotok.files import check_folder, sweep_folder, write_text
from autotok.plain_data import typed

from .record import TrialRecord

try:
    import fcntl
except ImportError:  # not on POSIX: two processes on one run are then not told apart
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

VERSION = 2
_SINCE_1 = {"device": "measure_on", "runs_on": "device"}
"""What keys of the question of a run of version 1 are called since."""
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}|\.seen-[0-9a-f]{8}")
"""What a killed writer of a file leaves, and a killed look at whether a folder is shared."""
FINISHED_FILE = "report.json"
"""Written when everything that a run hands over is there, but for its pages."""
RANKING_FILE = "importance.json"
"""Which parts of a backbone matter: found while a run is loaded, before it starts, and found again
by whoever loads it next."""


def fresh_run_folder(backbone: str) -> Path:
    """A new folder name under runs/, such as runs/autoformer_demo-20260131-120000."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in backbone.split(".")[0])
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


class RunDirectory:
    """A folder with config.yaml, study.log, trials.csv, pareto.csv and pareto.json."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """A new folder, claimed for this process.

        Raises:
            RunDirectoryError: it exists and is not empty, or cannot be made or written.
        """
        cls.check_new(path)
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._sweep()
        except OSError as error:
            raise run.trouble(error) from error
        run.claim()
        return run

    @classmethod
    def check_new(cls, path: str | Path) -> None:
        """Raise `RunDirectoryError` where `create` would; nothing is made."""
        run = cls(path)
        try:
            if run.path.exists() and not run.path.is_dir():
                raise RunDirectoryError(f"output '{path}' is a file; choose another --output")
            found = list(run.path.iterdir()) if run.path.is_dir() else []
            occupied = any(p.name != RANKING_FILE and not run._unstarted(p) for p in found)
            is_run = occupied and run.is_run
            check_folder(run.path)
        except OSError as error:
            raise run.trouble(error) from error
        if occupied:
            what = "holds a run" if is_run else "is not empty"
            raise RunDirectoryError(
                f"output folder '{path}' {what} already; continue it with `autotok resume {path}`"
                " or choose another --output"
            )

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run, not claimed: enough to read its tables."""
        run = cls(path)
        if not run.is_run:
            raise RunDirectoryError(
                f"'{path}' holds no run (it has no config.yaml); start one with `autotok search"
                f" --output {path}`"
            )
        return run

    @property
    def is_run(self) -> bool:
        """Whether a search was started here."""
        return (self.path / "config.yaml").is_file()

    @property
    def study_log(self) -> Path:
        """The Optuna journal."""
        return self.path / "study.log"

    @property
    def handed_over(self) -> bool:
        """Whether the run came to its end, and everything that it hands over was written."""
        return all((self.path / name).is_file() for name in ("pareto.json", FINISHED_FILE))

    def reopen(self) -> None:
        """Forget that it was handed over: something else is about to be."""
        (self.path / FINISHED_FILE).unlink(missing_ok=True)

    def claim(self) -> None:
        """Take the run for this process; released when the process ends, however it ends."""
        try:
            self._lock = open(self.path / ".lock", "w", encoding="utf-8")
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep_folder(self.path)
        except BlockingIOError as error:
            self.release()
            raise RunDirectoryError(
                f"run '{self.path}' is in use by another process; wait for it or end it first"
            ) from error
        except OSError as error:
            self.release()
            raise self.trouble(error) from error

    @property
    def in_use(self) -> bool:
        """Whether a process holds the run now."""
        if fcntl is None or not (self.path / ".lock").is_file():
            return False
        with open(self.path / ".lock", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def release(self) -> None:
        """Give the run back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Gives the run back when the block ends, well or not."""
        try:
            yield
        finally:
            self.release()

    def _unstarted(self, item: Path) -> bool:
        """Whether an item is what a start that was killed before its config.yaml left behind."""
        if item.name == ".lock":
            return True
        if self.is_run or not (self.path / ".lock").is_file():
            return False
        return _LEFTOVER.fullmatch(item.name) is not None or (item.name == "ray" and item.is_dir())

    def _sweep(self) -> None:
        """Remove what such a start left behind."""
        for item in self.path.iterdir():
            if item.name != ".lock" and self._unstarted(item):
                if item.is_dir():
                    shutil.rmtree(item, ignore_errors=True)
                else:
                    item.unlink(missing_ok=True)

    def discard(self, *, config: bool = False) -> None:
        """Give a run back that was never started; its folder goes if it is empty.

        `config` takes config.yaml back as well.
        """
        self.release()
        with contextlib.suppress(OSError):
            if config:
                (self.path / "config.yaml").unlink(missing_ok=True)
            (self.path / ".lock").unlink(missing_ok=True)
            self.path.rmdir()

    # --- writing

    def write_text(self, name: str, text: str) -> Path:
        """Replace a file as a whole: readers see the old one or the new one, never half of it."""
        try:
            return write_text(self.path / name, text)
        except OSError as error:
            raise self.trouble(error) from error
        except RunDirectoryError as error:
            if isinstance(error.__cause__, OSError):
                raise self.trouble(error.__cause__) from error
            raise

    def write_config(self, sections: Mapping[str, Any]) -> Path:
        """config.yaml: the effective settings, everything that `resume` needs."""
        data = {"version": VERSION, **sections}
        return self.write_text("config.yaml", yaml.safe_dump(data, sort_keys=False))

    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote."""
        return self.sections()[0]

    def section(self, name: str, cls: type[T]) -> T:
        """A part of config.yaml, typed; one that is left out has all defaults."""
        return section_of(*self.sections(), name, cls)

    def sections(self) -> tuple[dict[str, Any], Place]:
        """What `write_config` wrote, and the place to name when it is wrong."""
        data, place = read_yaml(self.path / "config.yaml", like="a folder with a run")
        version = data.pop("version", None) if isinstance(data, dict) else None
        if version not in (1, VERSION):
            raise ConfigError(
                f"{place}: the run is not of version 1 or {VERSION}; autotok reads those"
            )
        question = data.get("question")
        if version == 1 and isinstance(question, dict):
            data["question"] = {_SINCE_1.get(key, key): v for key, v in question.items()}
        return data, place

    def write_records(
        self,
        name: str,
        records: Sequence[TrialRecord],
        *,
        further: Callable[[TrialRecord], Mapping[str, Any]] | None = None,
    ) -> Path:
        """A CSV with one row per record; a column that any record has is there for all.

        `further` gives more columns of a record.
        """
        more = further or (lambda record: {})
        rows = [{**record.row(), **more(record)} for record in records]
        columns = _columns(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.write_text(name, text.getvalue())

    def write_json(self, name: str, data: Mapping[str, Any]) -> Path:
        """A JSON file."""
        return self.write_text(name, json.dumps(data, indent=1) + "\n")

    def trouble(self, error: OSError) -> RunDirectoryError:
        """What went wrong with the folder, in one sentence."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RunDirectoryError(
                f"output folder '{self.path}' is on a full disk; make room and continue with"
                f" `autotok resume {self.path}`: finished trials are safe"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return RunDirectoryError(
                f"output folder '{self.path}' cannot be written (read-only or not yours);"
                " choose another --output"
            )
        reason = error.strerror or str(error)
        return RunDirectoryError(
            f"output folder '{self.path}' cannot be used: {reason}; choose another --output"
        )

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns what writing to the folder raises into a `RunDirectoryError`.

        Libraries that write files themselves have errors of their own for a full disk.
        """
        try:
            yield
        except OSError as error:
            raise self.trouble(error) from error
        except Exception as error:
            if os.strerror(errno.ENOSPC) in str(error):
                raise self.trouble(OSError(errno.ENOSPC, "")) from error
            raise


def section_of(data: Mapping[str, Any], place: Place, name: str, cls: type[T]) -> T:
    """A part of what `RunDirectory.sections` gave, typed; one left out has all defaults."""
    read = getattr(cls, "from_dict", None) or partial(typed, cls)
    found: T = read(data.get(name) or {}, place / name)
    return found


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Union of the rows' columns; those of the fullest row come first, in its order."""
    if not rows:
        return ["number", "state"]
    fullest = max(rows, key=len)
    return list(dict.fromkeys([*fullest, *(key for row in rows for key in row)]))
