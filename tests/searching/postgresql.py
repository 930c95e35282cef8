"""A PostgreSQL server of one's own: on loopback, in a temporary folder, unprivileged."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -F"
        log = str(self.folder / "log")
        self._control("start", "-w", "-l", log, "-o", options)

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def make(self) -> None:
        given = self.folder / "password"
        given.write_text(self.password)
        shutil.chown(given, *_user())
        self._run("initdb", "-U", "autotok", "-A", "scram-sha-256", f"--pwfile={given}")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), "-D", str(self.folder / "data"), *arguments]
        if os.geteuid() == 0:  # the server refuses to run as root
            name, group = _user()
            before = ["setpriv", f"--reuid={name}", f"--regid={group}", "--clear-groups"]
            command = before + command
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{program} gave {done.returncode}"


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
    found = shutil.which("postgres")
    places = [Path(found).parent] if found else [p for p in _PLACES if (p / "postgres").exists()]
    if not places:
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
        with contextlib.suppress(AssertionError):
            one.stop()
        shutil.rmtree(folder, ignore_errors=True)
