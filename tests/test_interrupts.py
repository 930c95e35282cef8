"""Signals: once for an orderly end, twice for one at once, whatever the parent ignores."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autotok.interrupts import SIGNALS, Interrupted, Interrupts

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", SIGNALS)
def test_without_patience_the_first_signal_raises_and_names_itself(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}"), Interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_patient_block_is_finished_first(number: signal.Signals) -> None:
    told: list[str] = []
    finished = False
    with pytest.raises(Interrupted), Interrupts(told.append) as interrupts:
        with interrupts.patient():
            os.kill(os.getpid(), number)
            finished = True
        raise AssertionError("the end of the block raises")
    assert finished
    assert told == [number.name]


def test_the_second_signal_ends_a_patient_block_at_once() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interrupts() as interrupts:
        with interrupts.patient():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not reached")


SCRIPT = """
import os, signal, sys
from autotok.interrupts import Interrupted, Interrupts
try:
    with Interrupts():
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    print("went on")
except Interrupted as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="asks a shell to ignore signals")
@pytest.mark.parametrize(
    ("name", "words"), [("SIGINT", "interrupted by SIGINT"), ("SIGHUP", "went on")]
)
def test_an_ignored_sigint_is_heard_and_an_ignored_sighup_as_nohup_wants_it_is_not(
    name: str, words: str
) -> None:
    shell = ["sh", "-c", f"trap '' {name[3:]}; exec \"$@\"", "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-c", SCRIPT, name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == words
