"""Where a study lives: a journal file or a database, opened with one sentence for every trouble."""

from __future__ import annotations

import contextlib
import os
import re
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from autotok.errors import AutotokError, ConfigError, RunDirectoryError, StorageUnreachable

from .journal import open_journal

if TYPE_CHECKING:
    from sqlalchemy import URL

PASSWORD_VARIABLE = "AUTOTOK_STORAGE_PASSWORD"
_HIDDEN = "***"
_SECRET = ("password", "passwd")
# a drive letter is no scheme, and neither is a folder's name before two slashes
_ALMOST_URL = re.compile(
    r"[a-z][\w+.-]+:/|(sqlite|postgres(ql)?|mysql|mariadb|oracle|mssql)(\+\w+)?(:|//)", re.I
)
_CONNECT_S = 10
_LOCKED_S = 60
"""So long one search waits for another's turn in one SQLite file."""
_ATTEMPTS = 6


def is_url(storage: str | Path) -> bool:
    """Whether it names a database and not a journal file."""
    return isinstance(storage, str) and "://" in storage


def open_storage(storage: str | Path) -> BaseStorage:
    """The storage behind a URL or journal file, its tables made if need be.

    Raises:
        ConfigError: the URL cannot be, its driver is not installed, or its password is not known.
        StorageUnreachable: no database answers there.
        RunDirectoryError: the journal is damaged.
    """
    if is_url(storage):
        return _database(str(storage))
    return open_journal(Path(storage))


KeptStudy = AbstractContextManager[tuple[BaseStorage, int] | None]


@contextlib.contextmanager
def kept_study(storage: str | Path, name: str) -> Iterator[tuple[BaseStorage, int] | None]:
    """The storage and the id of a study in it, to read; None where there is none.

    Raises:
        StorageUnreachable: its database does not answer.
        RunDirectoryError: its journal is damaged.
    """
    if not is_url(storage) and not Path(storage).is_file():
        yield None
        return
    with storage_errors(storage), damaged_journal(storage):
        opened = open_storage(storage)
        try:
            study = opened.get_study_id_from_name(name)
        except KeyError:
            yield None
        else:
            yield opened, study


def _database(url: str) -> BaseStorage:
    url = filled_url(url)
    check_url(url)
    for attempt in range(_ATTEMPTS):
        try:
            # the internal name for what `create_study` itself does: a cache around the database
            database = RDBStorage(url, _engine_arguments(url))
            opened = optuna.storages.get_storage(database)
            weakref.finalize(opened, database.engine.dispose)
            return opened
        except Exception as error:  # two that make the tables at once: one meets the other's
            if attempt + 1 == _ATTEMPTS or not _of_database(error):
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError


def _engine_arguments(url: str) -> dict[str, Any]:
    parsed = _parsed(url)
    kind, driver = parsed.get_backend_name(), parsed.get_driver_name()
    if kind == "sqlite":
        return {"connect_args": {"timeout": _LOCKED_S}}
    known = driver in ("psycopg", "psycopg2", "pymysql", "mysqldb")
    return {
        "pool_pre_ping": True,  # a server that was restarted between two trials is no loss
        "connect_args": {"connect_timeout": _CONNECT_S} if known else {},
    }


def check_url(url: str) -> None:
    """Refuse a storage URL that cannot be, before anything is loaded; nothing is connected.

    Raises:
        ConfigError: it is none, or its driver is unknown or not installed.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    known = (
        "use sqlite:///FILE, or postgresql://USER@HOST/DATABASE with"
        " `pip install 'autotok[postgresql]'`"
    )
    parsed = _parsed(url)
    try:
        create_engine(parsed).dispose()
    except (NoSuchModuleError, ImportError, ArgumentError, ValueError, TypeError) as error:
        reason = f"cannot be used ({error}); {known}"
        if isinstance(error, NoSuchModuleError):
            reason = f"names the database '{parsed.drivername}', which is unknown; {known}"
        elif isinstance(error, ImportError):
            package = f"needs the Python package '{error.name}', which is not installed"
            reason = f"{package}; install it, or {known}"
        raise ConfigError(f"storage '{masked(url)}' {reason}") from error


def check_storage(storage: str | None) -> None:
    """Refuse a storage that cannot be, see `check_url`, or whose password is not known; also a URL
    that lacks a colon or a slash, which would name a journal file."""
    if storage is not None and is_url(storage):
        check_url(filled_url(storage))
    elif storage is not None and _ALMOST_URL.match(storage):
        raise _no_url(storage)


def _parsed(url: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise _no_url(url) from error


def _no_url(text: str) -> ConfigError:
    return ConfigError(
        f"storage '{_crossed_out(text)}' is no URL of a database; use sqlite:///FILE or"
        " postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    )


# --- passwords stay out of files


def masked(storage: str) -> str:
    """A storage URL that may be written down: its password is left out. Files stay as they are."""
    if not is_url(storage):
        return storage
    try:
        parsed = _parsed(storage)
    except ConfigError:
        return _crossed_out(storage)
    hidden = {key: _HIDDEN for key in parsed.query if key.lower() in _SECRET}
    if parsed.password is None and not hidden:
        return storage
    text: str = parsed.update_query_dict(hidden).render_as_string(hide_password=True)
    return text.replace("%2A%2A%2A", _HIDDEN)


def filled_url(url: str) -> str:
    """A URL that `masked` gave, with its password again: from the environment.

    Raises:
        ConfigError: it is not there.
    """
    parsed = _parsed(url)
    hidden = [key for key, value in parsed.query.items() if value == _HIDDEN]
    if parsed.password != _HIDDEN and not hidden:
        return url
    password = _known_password(parsed.get_backend_name())
    if password is None:
        own = {"postgresql": ", PGPASSWORD", "mysql": ", MYSQL_PWD"}
        raise ConfigError(
            f"the password of storage '{url}' is not kept in files: set {PASSWORD_VARIABLE}"
            f"{own.get(parsed.get_backend_name(), '')}, or give the whole URL with --storage"
        )
    if hidden:
        parsed = parsed.update_query_dict(dict.fromkeys(hidden, password))
    return _written(parsed, password if parsed.password == _HIDDEN else parsed.password)


def _known_password(kind: str) -> str | None:
    own = {"postgresql": "PGPASSWORD", "mysql": "MYSQL_PWD"}.get(kind, PASSWORD_VARIABLE)
    return os.environ.get(PASSWORD_VARIABLE) or os.environ.get(own)


def _written(url: URL, password: str | None) -> str:
    text: str = url.set(password=password).render_as_string(hide_password=False)
    return text


def _crossed_out(url: str) -> str:
    """What is no URL may hold a password all the same."""
    return re.sub(r"([:/][^/@:]*):[^@]*@", rf"\1:{_HIDDEN}@", url)


# --- trouble


@contextlib.contextmanager
def storage_errors(storage: str | Path, advice: str = "") -> Iterator[None]:
    """Turns what a lost database raises into one sentence with `advice` on what to do.

    Raises:
        StorageUnreachable: in its place.
    """
    try:
        yield
    except Exception as error:
        if not _of_database(error):
            raise
        where = masked(str(storage))
        advice = advice or "start it, or check host, port, user and password in --storage"
        raise StorageUnreachable(
            f"the study's database '{where}' does not answer ({_reason(error)}); {advice}"
        ) from error


@contextlib.contextmanager
def damaged_journal(storage: str | Path) -> Iterator[None]:
    """Turns whatever a damaged journal leads Optuna to into one sentence.

    Raises:
        RunDirectoryError: in its place.
    """
    try:
        yield
    except (AutotokError, OSError):
        raise
    except Exception as error:
        if is_url(storage):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise RunDirectoryError(
            f"study file {storage} is damaged ({reason}); restore it from a copy or start a new run"
        ) from error


def _of_database(error: Exception) -> bool:
    """Without loading SQLAlchemy where no database is used."""
    module = type(error).__module__
    return isinstance(error, StorageInternalError) or module.startswith("sqlalchemy.")


def _reason(error: BaseException) -> str:
    """The first words of what is at the bottom of it."""
    while True:
        deeper = getattr(error, "orig", None) or error.__cause__
        if deeper is None:
            break
        error = deeper
    return " ".join(str(error).split())[:160] or type(error).__name__
