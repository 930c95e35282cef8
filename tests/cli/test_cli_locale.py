"""Names of files beyond what the locale can say: the command line as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ("-b", "tiny")
PRUNED = (*TINY, "--method", "tome", "-r", "2")
SEARCH = ("search", *TINY, "--data", "digits", "--budget", "60%", "--trials", "2")
SEARCH += ("--max-images", "16", "--timeout", "0")


def plain(*arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """The command in a locale that knows ASCII alone."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "autotok.cli", *arguments],
        env={**os.environ, **ascii_only}, capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        ("compress", *PRUNED),
        ("export", *PRUNED, "--format", "pt2"),
        ("export", *PRUNED, "--format", "torchscript"),
        pytest.param(SEARCH, marks=pytest.mark.slow),
        pytest.param((*SEARCH, "-j", "2"), marks=pytest.mark.slow),
    ],
    ids=["compress", "pt2", "torchscript", "search", "workers"],
)
def test_a_name_that_the_locale_cannot_say_is_written_all_the_same(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    output = tmp_path / "größe-模型"
    done = plain(*command, "-o", os.fsencode(output))
    assert done.returncode == 0, done.stderr
    assert output.exists()
    if command[0] == "search":
        assert (output / "best" / "model.onnx").is_file()


def test_what_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path / "größe.yaml")
    done = plain("profile", missing, "--no-measure")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"autotok: ")
    assert done.stderr.isascii()
