"""`autotok init`: a file with every option of a search, to edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import app

_LEFT_OUT = ("config", "help")


@app.command("init")
def init_command(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("autotok.yaml"),
) -> None:
    """Write a file with every option of `autotok search`, to edit; `search --config` reads it."""
    if file.exists():
        raise autotok.ConfigError(f"file '{file}' exists; give another name, or remove it")
    autotok.check_output_file(file)
    command: Any = typer.main.get_command(app)
    options = [p for p in command.commands["search"].params if p.name not in _LEFT_OUT]
    blocks = [_block(option) for option in options if not option.hidden]
    head = f"# Options of `autotok search --config {file}`; what is commented out has no value.\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([head, *blocks]), encoding="utf-8")
    typer.echo(f"{file} written; search with `autotok search --config {file}`")


def _block(option: Any) -> str:
    """An option with its help as a comment and its default as the value."""
    shown = option.show_default
    value = [shown] if isinstance(shown, str) and option.multiple else option.default
    line = f"{option.name}: {'' if value is None else json.dumps(value)}".rstrip()
    return f"# {option.help}\n{'# ' if value is None else ''}{line}\n"
