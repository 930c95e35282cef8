"""Signals: once for an orderly end, twice for one at once, whatever the parent ignores."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autotok.interrupts import SIGNALS, Interrupted, Interrupts

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("heard")


@pytest.mark.parametrize("number", SIGNALS)
def test_without_patience_the_first_signal_raises_and_names_itself(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}"), Interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def patiently(numbers: list[signal.Signals], finished: list[bool], told: list[str]) -> None:
    """Signals in a patient block, which notes if it comes to its end."""
    with Interrupts(told.append) as interrupts, interrupts.patient():
        for number in numbers:
            os.kill(os.getpid(), number)
        finished.append(True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_patient_block_is_finished_first(number: signal.Signals) -> None:
    finished: list[bool] = []
    told: list[str] = []
    with pytest.raises(Interrupted, match=number.name):
        patiently([number], finished, told)
    assert finished == [True]
    assert told == [number.name]


def test_the_second_signal_ends_a_patient_block_at_once() -> None:
    finished: list[bool] = []
    with pytest.raises(Interrupted, match="SIGTERM"):
        patiently([signal.SIGINT, signal.SIGTERM], finished, [])
    assert finished == []


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
