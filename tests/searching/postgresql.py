"""A PostgreSQL server of one's own: on loopback, in a temporary folder, unprivileged."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import pytest

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@dataclass
class Server:
    """A server that runs, and can be stopped and started."""

    binaries: Path
    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://autotok:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns once it answers; the server ends with this process, however that ends."""
        where = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", str(self.folder)]
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *where, "-F"]
        self._process = subprocess.Popen(
            _unprivileged(command), cwd=self.folder, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(600):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        """At once."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def make(self) -> None:
        given = self.folder / "password"
        given.write_text(self.password)
        shutil.chown(given, *_user())
        command = [str(self.binaries / "initdb"), "-D", str(self.folder / "data"), "-N"]
        command += ["-U", "autotok", "-A", "scram-sha-256", f"--pwfile={given}"]
        subprocess.run(
            _unprivileged(command), cwd=self.folder, stdout=DEVNULL, timeout=120, check=True
        )


def _unprivileged(command: list[str]) -> list[str]:
    """The server refuses to run as root."""
    prefix = ["setpriv", "--pdeathsig=QUIT"]
    if os.geteuid() == 0:
        name, group = _user()
        prefix += [f"--reuid={name}", f"--regid={group}", "--clear-groups"]
    return prefix + command


def quick_folder() -> str | None:
    """A folder in memory, where there is one: these tests are about locks, not about the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _user() -> tuple[str, int]:
    """(name, group) that the server runs as."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        return entry.pw_name, entry.pw_gid
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return name, pwd.getpwnam(name).pw_gid
    pytest.skip("PostgreSQL cannot run as root, and there is no user 'postgres' or 'nobody'")


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A fresh server for as long as the block runs; skips the test where there is none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install autotok[test]")
    found = [*_PLACES, *(Path(p).resolve().parent for p in [shutil.which("postgres")] if p)]
    places = [place for place in found if (place / "pg_isready").exists()]
    if not places or shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="autotok-pg-", dir=quick_folder()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    one = Server(places[0], folder, port, secrets.token_hex(8))
    try:
        shutil.chown(folder, *_user())
        one.make()
        one.start()
        yield one
    finally:
        with contextlib.suppress(AttributeError):  # it was never started
            one.stop()
        shutil.rmtree(folder, ignore_errors=True)
