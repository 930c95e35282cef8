"""`Link`: one ssh connection with `board.py` at its other end.

The system's ssh does the connecting; nothing is asked, no port is opened on either side. The far
shell runs one fixed line: it makes a temporary folder, checks the Python there, receives `board.py`
and starts it, and removes the folder when that ends, however it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from autotok.errors import AutotokError, ConfigError, DeviceUnreachable

from .ssh_address import SshAddress

SSH_OPTIONS = {
    "BatchMode": "yes",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "4",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "RequestTTY": "no",
    "EscapeChar": "none",
    "LogLevel": "ERROR",
}
SILENCE_S = 30.0
"""The board says that it is still working every two seconds; longer silence is a dropped line."""
# a board that sends without an end must not fill our memory with one line
MAX_LINE = 2**20
_FINAL = (
    "Permission denied", "Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "Could not resolve hostname", "Too many authentication failures", "Bad configuration option",
)  # fmt: skip
# no codes that ssh (255), a shell (126 on) or Python (1, 2) gives
_OLD_PYTHON, _NO_PYTHON, _NO_FOLDER = 85, 86, 87
_FAREWELL_S = 5.0

# within single quotes for the login shell, whatever it is; holds no single quote, no bang
_BOOTSTRAP = (
    "umask 077; command -v {python} >/dev/null 2>&1 || exit {missing}; "
    'd=$(mktemp -d "${{TMPDIR:-/tmp}}/autotok.XXXXXXXX") || exit {folder}; '
    'trap "rm -rf \\"\\$d\\"" EXIT; trap "exit 1" HUP INT TERM; '
    '{python} -c "import sys; sys.exit(sys.version_info < (3, 6))" >/dev/null 2>&1 || exit {old}; '
    'head -c {size} > "$d/board.py" || exit {folder}; {python} -u "$d/board.py" "$d"'
)


class ConnectionDropped(AutotokError):
    """The connection ended or fell silent; another may do."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final
        """Trying again would not help."""


class BoardTrouble(AutotokError):
    """The board answered that it could not: the kind of trouble and its words."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


class Link:
    """An open connection; use it from one thread."""

    def __init__(self, address: SshAddress, *, connect_s: float) -> None:
        """Connect and start the board's side.

        Raises:
            ConfigError: there is no ssh here.
        """
        self._address = address
        program = Path(__file__).with_name("board.py").read_bytes()
        options = {**SSH_OPTIONS, "ConnectTimeout": f"{max(1, int(connect_s))}"}
        command = [
            *shlex.split(os.environ.get("AUTOTOK_SSH", "ssh")),
            *(word for pair in options.items() for word in ("-o", "=".join(pair))),
            *address.arguments,
            f"exec sh -c '{_bootstrap(address.python, len(program))}'",
        ]
        pipe = subprocess.PIPE
        try:
            self._ssh = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise ConfigError(
                f"device '{address}' needs the program '{command[0]}' here, which cannot be started"
                f" ({error.strerror}); install OpenSSH's client"
            ) from error
        self._number, self._sent = 0, set[str]()
        self._passing: str | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._complaints: list[bytes] = []
        assert self._ssh.stdin is not None
        self._input = self._ssh.stdin
        self._threads = [
            threading.Thread(target=work, args=(stream,), daemon=True)
            for work, stream in ((self._hear, self._ssh.stdout), (self._note, self._ssh.stderr))
        ]
        for thread in self._threads:
            thread.start()
        self._patience_s = connect_s + SILENCE_S
        try:
            self._write(program)
        except AutotokError:
            self.close()
            raise

    def ask(
        self, what: str, *, deadline_s: float, on_wait: Callable[[float], None] | None = None,
        **details: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The board's answer to a request.

        Raises:
            BoardTrouble: it could not.
            ConnectionDropped: no answer came.
        """
        self._number += 1
        request = {"id": self._number, "do": what, **details}
        self._write(json.dumps(request).encode() + b"\n")
        return self._answer(deadline_s, on_wait)

    def put(self, path: Path, *, passing: bool = False, deadline_s: float = 600.0) -> str:
        """The name under which a file is now in the board's folder; sent once.

        One that is `passing` stays there until the next one that is: models are many and large.
        """
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        name = f"{digest[:16]}{path.suffix}"
        if not passing and name == self._passing:
            self._passing = None  # what was measured is a reference now
        if name not in self._sent:
            self._number += 1
            request: dict[str, Any] = {"id": self._number, "do": "put", "name": name}
            request |= {"bytes": len(content), "sha256": digest}
            if passing:
                request["instead"], self._passing = self._passing, name
                self._sent.discard(str(request["instead"]))
            self._write(json.dumps(request).encode() + b"\n" + content, deadline_s)
            self._answer(deadline_s, None)
            self._sent.add(name)
        return name

    def close(self, patience_s: float = _FAREWELL_S) -> None:
        """End it; the board removes its folder."""
        with contextlib.suppress(OSError, ValueError):
            self._input.close()
        try:
            self._ssh.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        for thread in self._threads:
            thread.join(_FAREWELL_S)
        for stream in (self._ssh.stdout, self._ssh.stderr):
            if stream is not None:
                stream.close()

    # --- the wire

    def _write(self, content: bytes, limit_s: float = SILENCE_S) -> None:
        """Send it; a board that takes nothing for so long is given up."""
        watch = threading.Timer(limit_s, self._ssh.kill)
        watch.start()
        try:
            self._input.write(content)
            self._input.flush()
        except (OSError, ValueError) as error:
            raise self._dropped() from error
        finally:
            watch.cancel()

    def _answer(self, deadline_s: float, on_wait: Callable[[float], None] | None) -> dict[str, Any]:
        end = time.monotonic() + deadline_s
        while True:
            if time.monotonic() > end:
                raise BoardTrouble("timeout", f"no answer after {deadline_s:.0f} s")
            try:
                line = self._lines.get(timeout=self._patience_s)
            except queue.Empty:
                raise ConnectionDropped(f"silent for {self._patience_s:.0f} s") from None
            if line is None:
                raise self._dropped()
            answer = _message(line)
            if answer is None or answer.get("id") != self._number:
                continue
            self._patience_s = SILENCE_S
            if "error" in answer:
                raise BoardTrouble(str(answer["error"]), _clause(str(answer.get("words"))))
            if answer.get("event") != "working":
                return answer
            if on_wait is not None:
                on_wait(deadline_s - (end - time.monotonic()))

    def _hear(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(MAX_LINE):
                self._lines.put(line)
        self._lines.put(None)

    def _note(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(MAX_LINE):
                self._complaints = [*self._complaints[-20:], line]

    def _dropped(self) -> AutotokError:
        """What it means that the connection ended."""
        try:
            code = self._ssh.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            return ConnectionDropped("it no longer listens")
        self._threads[1].join(_FAREWELL_S)
        said = [line.decode("utf-8", "replace").strip() for line in self._complaints]
        said = [line for line in said if line]
        where = f"device '{self._address}'"
        if code == _NO_PYTHON:
            return ConfigError(
                f"{where} has no '{self._address.python}'; name a Python 3.6 or later there with"
                " ?python=PATH"
            )
        if code == _OLD_PYTHON:
            return ConfigError(
                f"{where} has a '{self._address.python}' that is older than 3.6 or does not run;"
                " name another there with ?python=PATH"
            )
        if code == _NO_FOLDER:
            return DeviceUnreachable(f"{where} has no room for a temporary folder; free some there")
        reason = said[-1] if said else f"ssh ended with status {code}"
        final = any(word in line for line in said for word in _FINAL)
        return ConnectionDropped(reason, final=final)


def _bootstrap(python: str, size: int) -> str:
    line = _BOOTSTRAP.format(
        python=python, size=size, missing=_NO_PYTHON, old=_OLD_PYTHON, folder=_NO_FOLDER
    )
    assert not set("'!`") & set(line), "the login shell would touch it"
    return line


def _message(line: bytes) -> dict[str, Any] | None:
    """A line from the board; None if it is something else, such as a greeting."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("autotok") == 1 else None


def _clause(words: str) -> str:
    """Foreign words, fit to stand within a sentence."""
    return " ".join(words.split()).replace(". ", "; ").rstrip(".")[:240]
