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
ONE_AFTER_ANOTHER = """
import sys
from autotok.cli import main
folder, *words = sys.argv[1:]
for command in " ".join(words).split(" then "):
    command, _, end = command.rpartition(" -o ")
    sys.argv = ["autotok", *command.split(), "-o", folder + end]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command
"""


def plain(*arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Python in a locale that knows ASCII alone."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **ascii_only}, capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_name_that_the_locale_cannot_say_is_written_all_the_same(tmp_path: Path) -> None:
    commands = {
        "": (*SEARCH, "--trial-timeout", "100"),  # has a worker process
        ".pt2": ("export", *PRUNED, "--format", "pt2"),
        ".pt": ("export", *PRUNED, "--format", "torchscript"),
        "-bundle": ("compress", *PRUNED),
    }
    outputs = [tmp_path / f"größe-模型{end}" for end in commands]
    words = " then ".join(" ".join((*c, "-o", end)) for end, c in commands.items())
    done = plain("-c", ONE_AFTER_ANOTHER, os.fsencode(tmp_path / "größe-模型"), words)
    assert done.returncode == 0, done.stderr
    assert all(output.exists() for output in outputs)
    assert (outputs[0] / "best" / "model.onnx").is_file()


def test_what_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path / "größe.yaml")
    done = plain("-m", "autotok.cli", "profile", missing, "--no-measure")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"autotok: ")
    assert done.stderr.isascii()
