"""`autotok doctor`: is this installation healthy, and does a device answer?"""

from __future__ import annotations

import typer

import autotok

from .app import app, print_json
from .options import FormerDevice, JsonFlag, MeasureOnOption


@app.command("doctor")
def doctor_command(
    measure_on: MeasureOnOption = None, device: FormerDevice = "auto", json: JsonFlag = False
) -> None:
    """Check versions, optional packages, torchvision's library, the demo's weights.

    With --measure-on, ask a device whether it answers too.
    """
    checks = autotok.diagnose(measure_on)
    if json:
        print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<22} {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
