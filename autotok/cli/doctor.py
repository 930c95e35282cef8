"""`autotok doctor`: is this installation healthy, and does a device answer?"""

from __future__ import annotations

from typing import Annotated

import typer

import autotok

from .app import JsonFlag, app, print_json


@app.command("doctor")
def doctor_command(
    device: Annotated[
        str | None,
        typer.Option(help="Ask a device too: 'local', ssh://user@host[:port] or ray:RESOURCE."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check versions, optional packages, torchvision's library, the demo's weights, a device."""
    checks = autotok.diagnose(device)
    if json:
        print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<22} {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
