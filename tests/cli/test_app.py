"""The command line as a whole: light, and strict about its options."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from autotok.cli import (  # noqa: F401
    adapters,
    calibrate,
    catalog,
    dashboard,
    doctor,
    finetune,
    init,
    models,
    run_reports,
    runs,
    study,
    supernet,
    tokens,
)
from autotok.cli.app import Verbs

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


def commands(group: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """(name, options) of every command."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        yield f"{path}{name}", {flag for param in command.params for flag in param.opts}


def test_every_command_may_be_quiet_or_verbose() -> None:
    found = dict(commands(typer.main.get_command(runs.app)))
    assert len(found) > 25
    names = {"-q", "--quiet", "-v", "--verbose"}
    without = {name for name, flags in found.items() if not names <= flags}
    assert without == {"supernet", "study"}  # which only hold others


@pytest.mark.parametrize(
    ("flags", "told"), [((), "warning"), (("-q",), ""), (("-v",), "step\nwarning")]
)
def test_a_command_that_is_not_told_logs_as_it_is_asked_to(
    flags: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("autotok.somewhere")
    monkeypatch.setattr(log, "handlers", [handler])
    own = Verbs()

    @own.command("speak")
    def speak() -> None:
        log.info("step")
        log.warning("warning")

    CliRunner().invoke(own, [*flags])
    assert "\n".join(said) == told
