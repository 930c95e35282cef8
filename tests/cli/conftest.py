"""`run`: the command line called in this process; (exit code, stdout, stderr) comes back."""

import logging
import sys
from collections.abc import Callable, Iterator

import pytest

from autotok import cli


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotok", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        code = caught.value.code
        return (0 if code is None else int(code)), out, err

    yield call
    logging.getLogger("autotok").setLevel(logging.NOTSET)  # -q must not silence other tests
