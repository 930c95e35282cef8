"""A process that ends by a signal of its own leaves word of it."""

import faulthandler
import subprocess
import sys
from pathlib import Path

from autotok.searching.running.faults import crashed_before, faults_told

CRASH = """
import ctypes, sys, pathlib
from autotok.searching.running.faults import faults_told
with faults_told(pathlib.Path(sys.argv[1])):
    ctypes.string_at(0)
"""


def test_a_crash_is_known_afterwards_and_a_good_end_leaves_nothing(tmp_path: Path) -> None:
    assert not crashed_before(tmp_path)
    assert subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=False).returncode < 0
    assert crashed_before(tmp_path)
    enabled = faulthandler.is_enabled()
    with faults_told(tmp_path):
        assert not crashed_before(tmp_path)
    assert not list(tmp_path.iterdir())
    assert faulthandler.is_enabled() == enabled
