"""`python -m autotok` is the command line."""

import subprocess
import sys

import autotok


def test_python_m_autotok_answers() -> None:
    asked = [sys.executable, "-m", "autotok", "--version"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == autotok.__version__
