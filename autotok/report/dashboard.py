"""A run in the browser: optuna-dashboard over its study, read-only, on this machine only."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import uuid
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autotok.errors import RunDirectoryError, UsageError
from autotok.searching.proposing.shown_study import shown_storage
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.space.settings import SearchSettings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
DEFAULT_PORT = 8080
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_READING = ("GET", "HEAD", "OPTIONS")


def serve_dashboard(
    run: str | Path, *, port: int = DEFAULT_PORT, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve a run's study, live or finished, until interrupted; nothing is written to it.

    Args:
        run: Run directory.
        port: Port on 127.0.0.1; 0 takes any that is free.
        on_ready: Called with the address once it answers.

    Raises:
        UsageError: optuna-dashboard is not installed, or the port is taken.
        RunDirectoryError: no run there, or one that has no study yet.
    """
    app = dashboard_app(run)
    try:
        server = make_server(HOST, port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        what = "taken by another program" if error.errno == errno.EADDRINUSE else "not yours to use"
        raise UsageError(
            f"port {port} is {what}; give another with --port, or --port 0 for any that is free"
        ) from error
    with server:
        if on_ready is not None:
            on_ready(f"http://{HOST}:{server.server_port}{_page(run)}")
        with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
            warnings.simplefilter("ignore", UserWarning)  # Optuna's, on importances of few trials
            server.serve_forever(poll_interval=0.2)


def dashboard_app(run: str | Path) -> WSGIApplication:
    """optuna-dashboard over a run's study, as a WSGI application that refuses every change.

    Reading a journal takes no lock, so a search that is writing it goes on undisturbed.
    """
    storage = _storage(run)
    try:
        import optuna_dashboard
    except ImportError as error:
        raise UsageError(
            "the dashboard needs optuna-dashboard, which is not installed: run"
            " `pip install 'autotok[dashboard]'`"
        ) from error
    pictures = _RunPictures(Path(run))
    shown = shown_storage(storage, lambda: {key: name for key, (name, _) in pictures.found.items()})
    return _ReadOnly(optuna_dashboard.wsgi(shown, artifact_store=pictures))


def _storage(run: str | Path) -> str:
    """The storage URL of a run, or the path of its journal."""
    directory = RunDirectory.open(run)
    url = directory.section("search", SearchSettings).storage
    if url:
        return url
    if not directory.study_log.is_file():
        raise RunDirectoryError(
            f"run '{run}' has no study.log yet; wait until its first trial has started, or start"
            f" it again with `autotok resume {run}`"
        )
    return str(directory.study_log)


def _page(run: str | Path) -> str:
    """A journal holds one study, the first; a database may hold others."""
    journal = Path(_storage(run)).is_file()
    return "/dashboard/studies/0" if journal else "/dashboard"


class _RunPictures:
    """Optuna's artifact store over pictures where they are; nothing is ever written or removed."""

    def __init__(self, run: Path) -> None:
        self._run = run

    @property
    def found(self) -> dict[str, tuple[str, Path]]:
        """By artifact's id, name and file: fronts, and where the tokens of images went."""
        named = [(path.name, path) for path in sorted(self._run.glob("pareto*.png"))]
        named += [(f"tokens-{path.name}", path) for path in sorted(self._run.glob("maps/*.png"))]
        return {str(uuid.uuid5(uuid.NAMESPACE_URL, name)): (name, path) for name, path in named}

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The picture, to read."""
        return self.found[artifact_id][1].open("rb")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refused."""
        raise UsageError("this dashboard only shows the run; put files in its folder instead")

    def remove(self, artifact_id: str) -> None:
        """Refused."""
        raise UsageError("this dashboard only shows the run; remove files in its folder instead")


class _ReadOnly:
    """Lets requests through that read and name this machine as their host; others get a 403.

    A page of somebody else's whose name was made to resolve to this machine still sends that name.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = None
        if not _LOOPBACK.fullmatch(environ.get("HTTP_HOST", "")):
            reason = f"this dashboard answers on this machine only: open http://{HOST} and its port"
        elif environ.get("REQUEST_METHOD", "GET") not in _READING:
            reason = "this dashboard only shows the run; the search alone writes its study"
        if reason is None:
            return self._app(environ, start_response)
        body = json.dumps({"reason": reason}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", headers)
        return [body]


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per connection: browsers open some that they do not use at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
