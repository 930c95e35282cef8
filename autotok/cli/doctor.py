"""`autotok doctor`: is this installation healthy, and does a device answer?"""

from __future__ import annotations

from typing import Annotated

import typer

from .app import JsonFlag, app, print_json


@app.command()
def doctor(
    device: Annotated[
        str | None,
        typer.Option(help="Ask a device too: 'local', ssh://user@host[:port] or ray:RESOURCE."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check versions, optional packages, torchvision's library, the demo's weights, a device."""
    from autotok.diagnosis import HealthCheck, diagnose

    found = None if device is None else _answer(device)  # before the rest, which takes seconds
    checks = diagnose()
    if device is not None and found is not None:
        checks.append(HealthCheck(f"device {device}", True, found))
    if json:
        print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<22} {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _answer(text: str) -> str:
    """What the device says of itself; `DeviceUnreachable` where it is silent."""
    from autotok.devices.device import leaving, open_device

    device = open_device(text)
    with leaving(device):
        return device.check()
