"""A real sshd on a free loopback port, with its own keys, whose sessions tests may kill."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
WHY_NOT = "" if SSHD and shutil.which("ssh-keygen") and shutil.which("ssh") else (
    "no sshd here: install Debian's openssh-server, or your system's, to run these"
)  # fmt: skip


class Board:
    """What tests see of the far side."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.tmp = folder, folder / "bin", folder / "tmp"
        self.port, self.server = 0, None
        for path in (self.bin, self.tmp):
            path.mkdir()
        self.command("python3", "")

    def command(self, name: str, first: str, *, program: str = sys.executable) -> Path:
        """A command on the far side that runs `first` and then becomes the program."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\n{first}\nexec {program} "$@"\n')
        path.chmod(0o755)
        return path

    def address(self, query: str = "runtime=onnxruntime") -> str:
        user = getpass.getuser()
        return f"ssh://{user}@127.0.0.1:{self.port}" + (f"?{query}" if query else "")

    @property
    def left_behind(self) -> list[str]:
        """Folders that are still there, once those in the course of removal are gone."""
        until(lambda: not any(self.tmp.glob("autotok.*")), 60.0)
        return [path.name for path in self.tmp.glob("autotok.*")]

    @property
    def sessions(self) -> list[int]:
        """Processes of open connections: what the server started that is sshd itself."""
        if self.server is None:
            return []
        return [pid for pid in _descendants(self.server.pid) if _command(pid).startswith("sshd")]

    def drop(self) -> None:
        """End every connection, as a network that goes away does."""
        for pid in self.sessions:
            _kill(pid)

    @property
    def workers(self) -> list[int]:
        """Processes on the far side that run the board's file."""
        return [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and str(self.tmp) in _arguments(int(path.name))
        ]


@contextmanager
def sshd(folder: Path) -> Iterator[Board]:
    """A server with a board behind it; `AUTOTOK_SSH` must be `ssh -F folder/config`."""
    assert SSHD is not None
    board = Board(folder)
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        board.port = probe.getsockname()[1]
    _configure(board)
    start(board)
    try:
        yield board
    finally:
        board.drop()
        stop(board)


def start(board: Board) -> None:
    command = [str(SSHD), "-D", "-f", str(board.folder / "sshd_config"), "-E", str(board.folder / "log")]  # fmt: skip  # noqa: E501
    board.server = subprocess.Popen(command)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", board.port)) == 0

    assert until(answers, 60.0), (board.folder / "log").read_text()


def stop(board: Board) -> None:
    if board.server is not None:
        board.server.terminate()
        board.server.wait()
        board.server = None


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _configure(board: Board) -> None:
    folder, path = board.folder, f"{board.bin}:/usr/bin:/bin"
    lines = [
        f"Port {board.port}", "ListenAddress 127.0.0.1", f"HostKey {folder / 'host'}",
        f"PidFile {folder / 'pid'}", f"AuthorizedKeysFile {folder / 'authorized'}",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", "StrictModes no",
        "UsePAM no", f"SetEnv TMPDIR={board.tmp} OMP_NUM_THREADS=1",
        # after the login shell's own start-up files, which may put another python3 first
        f'ForceCommand PATH={path} exec sh -c "$SSH_ORIGINAL_COMMAND"',
    ]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{board.port} {key}")
    client = [
        f"IdentityFile {folder / 'user'}", "IdentitiesOnly yes", "IdentityAgent none",
        f"UserKnownHostsFile {folder / 'known'}", "StrictHostKeyChecking yes",
        "GlobalKnownHostsFile /dev/null",
    ]  # fmt: skip
    (folder / "config").write_text("\n".join(client) + "\n")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
