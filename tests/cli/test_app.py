"""The command line as a whole: light, and strict about its options."""

import subprocess
import sys
from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]


def test_help_answers_without_importing_torch() -> None:
    code = "import sys; sys.argv=['autotok','--help']\nfrom autotok.cli import main\ntry: main()\n"
    code += "except SystemExit: print('torch' in sys.modules, 'optuna' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Find how to compress" in out.stdout
    assert out.stdout.strip().endswith("False False")


def test_wrong_usage_exits_with_2(run: Run) -> None:
    assert run("search", "--no-such-option")[0] == 2
    assert run("search", "--trials", "0")[0] == 2
    assert run("nonsense")[0] == 2
