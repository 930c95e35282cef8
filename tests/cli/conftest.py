"""`run`: the command line called in this process; (exit code, stdout, stderr) comes back."""

import logging
import sys
from collections.abc import Callable, Iterator

import pytest

from autotok import cli
from autotok.errors import ExportError


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


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches hand over no ONNX file, which takes longer to write than a small search takes."""

    def fail(*_: object, **__: object) -> None:
        raise ExportError("left out by this test")

    monkeypatch.setattr("autotok.export.bundle.export_model", fail)
