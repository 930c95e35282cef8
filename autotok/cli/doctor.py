"""`autotok doctor`: is this installation healthy?"""

from __future__ import annotations

import typer

from .app import JsonFlag, app, print_json


@app.command()
def doctor(json: JsonFlag = False) -> None:
    """Check versions, optional packages, torchvision's library and the demo's weights."""
    from autotok.diagnosis import diagnose

    checks = diagnose()
    if json:
        print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<22} {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
