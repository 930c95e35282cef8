"""The Typer application and what all commands share: output, verbosity, the model arguments."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer

import autotok

from .options import QuietFlag, VerboseFlag

if TYPE_CHECKING:
    from rich.console import Console


class Verbs(typer.Typer):
    """An application whose commands all take -q and -v."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        register = super().command(name, **settings)

        def registered(function: Any) -> Any:
            register(heard(function))
            return function

        return registered


def heard(function: Callable[..., object]) -> Callable[..., object]:
    """A command that logs as it is asked to, and is told so only where it takes that."""
    flags = {"quiet": QuietFlag, "verbose": VerboseFlag}
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    added = {name: flag for name, flag in flags.items() if name not in signature.parameters}

    @functools.wraps(function)
    def verb(**given: Any) -> object:
        configure_logging(verbose=bool(given["verbose"]), quiet=bool(given["quiet"]))
        return function(**{name: value for name, value in given.items() if name not in added})

    own = [p.replace(annotation=hints[name]) for name, p in signature.parameters.items()]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag)
        for name, flag in added.items()
    ]
    verb.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    verb.__annotations__ = {**hints, **added}
    return verb


app = Verbs(
    name="autotok",
    help="Find how to compress a Vision Transformer's tokens so that it fits a device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(autotok.__version__)
        raise typer.Exit


def configure_logging(*, verbose: bool, quiet: bool) -> None:
    """Log lines go to stderr; warnings by default, one line per step with -v."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_escape)
    logging.getLogger("autotok").setLevel(level)


def interrupted(error: KeyboardInterrupt, go_on: str) -> NoReturn:
    """End the command, saying how to go on."""
    sys.stderr.write(f"autotok: {str(error) or 'interrupted'}; {go_on}\n")
    # as shells have it: 128 and the number of SIGINT
    raise typer.Exit(130) from None


def _escaped(text: str) -> str:
    """The text with control characters, which names of files may hold, as escapes; line by line."""
    return "\n".join(map(autotok.printable, text.split("\n")))


def _escape(record: logging.LogRecord) -> bool:
    """A log filter that lets everything pass, escaped."""
    record.msg, record.args = _escaped(record.getMessage()), None
    return True


def console(*, wide: bool = False) -> Console:
    """A rich console on stdout, 80 columns unless `wide` or a terminal has more."""
    from rich.console import Console

    width = 160 if wide else None if sys.stdout.isatty() else 80
    return Console(highlight=False, soft_wrap=False, width=width)


def print_json(data: object) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, default=str))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    wide: bool = False,
) -> None:
    """A titled table on stdout; columns whose header ends in a unit are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, caption=caption or None, box=SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    for column in columns:
        table.add_column(column, justify="left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else _escaped(str(cell))) for cell in row))
    console(wide=wide).print(table)


def show(report: Mapping[str, Any], json: bool) -> None:
    """Facts on stdout, as JSON or as lines."""
    (print_json if json else print_facts)(report)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Aligned `name  value` lines on stdout; mappings as 'key: value, ...'."""
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name}: {each}" for name, each in value.items())
        typer.echo(_escaped(f"{key:<{width}}  {value}"))
