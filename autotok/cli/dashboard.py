"""`autotok dashboard`: a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotok

from .app import app
from .options import QuietFlag


@app.command("dashboard")
def dashboard_command(
    run: Annotated[Path, typer.Argument(help="Run directory, of a live or a finished search.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 8080,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    quiet: QuietFlag = False,
) -> None:
    """Show a run's trials in the browser with optuna-dashboard; needs `autotok[dashboard]`.

    It only reads: a search that is going on is not disturbed. Ctrl-C ends it.
    """

    def ready(url: str) -> None:
        typer.echo(f"{url}  (read-only, this machine only; Ctrl-C ends it)")
        if browser:
            import webbrowser

            webbrowser.open(url)

    autotok.serve_dashboard(run, port=port, on_ready=ready)
