"""A board behind a real sshd, for the tests that need one."""

import os
from collections.abc import Iterator

import pytest
import sshd as server

from autotok.devices.ssh_board import RemoteDevice


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Board]:
    folder = tmp_path_factory.mktemp("board")
    before = os.environ.get("AUTOTOK_SSH")
    os.environ["AUTOTOK_SSH"] = f"ssh -F {folder / 'config'}"
    try:
        with server.sshd(folder) as found:
            yield found
    finally:
        os.environ.pop("AUTOTOK_SSH")
        if before is not None:
            os.environ["AUTOTOK_SSH"] = before


@pytest.fixture
def device(board: server.Board) -> Iterator[RemoteDevice]:
    found = RemoteDevice(board.address(), connect_s=10.0, pauses_s=(0.1, 0.2))
    yield found
    found.close()
    assert board.left_behind == []
