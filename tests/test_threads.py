"""Threads that wait sleep soon, unless the user chose otherwise."""

import os
import subprocess
import sys

import pytest

from autotok.threads import wait_asleep


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_waiting_threads_sleep_unless_the_user_chose(
    given: dict[str, str], expected: dict[str, str]
) -> None:
    wait_asleep(given)
    assert given == expected


def test_the_command_line_says_so_before_torch_is_loaded() -> None:
    code = (
        "import os, sys; sys.argv = ['autotok', '--version'];"
        "from autotok.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["1000", "False"]
