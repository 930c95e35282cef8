"""`autotok calibrate`: a latency and memory model of a machine, from measurements on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotok

from .app import app, print_json
from .models import in_runtime
from .options import JsonFlag, QuietFlag


@app.command("calibrate")
def calibrate_command(
    target: Annotated[
        str,
        typer.Option(
            help="'local', this machine; ssh://user@host[:port][?runtime=NAME] or ray:RESOURCE."
        ),
    ] = "local",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Target file to write.")
    ] = None,
    measurements: Annotated[int, typer.Option(help="Configurations to measure, 10 to 60.")] = 60,
    minutes: Annotated[
        float | None,
        typer.Option(help="Be done after so long: 5 at most here; on a device 60, by default 15."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", "-b", help="Model to measure; repeat for several."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(help="Target that gives what is not measured: kind, peaks, bandwidth, notes."),
    ] = "local",
    device: Annotated[
        str, typer.Option(help="Of this machine, what is measured: cpu, cuda[:N] or auto.")
    ] = "cpu",
    runtime: Annotated[
        str,
        typer.Option(help="Of this machine, what runs the models: eager, onnxruntime, openvino."),
    ] = "eager",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the drawn configurations.")
    ] = 0,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a target file of a machine: measure it, fit its latency and memory model, check that."""
    from .progress import StepProgress

    target = in_runtime(target, runtime)
    plan = autotok.plan_of(
        target=target,
        measurements=measurements,
        minutes=minutes,
        batch=batch,
        backbones=backbone,
        seed=seed,
    )
    with StepProgress("calibrating", quiet=quiet or json) as bar:
        found = autotok.calibrate(
            target, output=output, base=base, plan=plan, run_on=device, on_step=bar.update
        )
    if json:
        print_json(found.to_dict())
        return
    for line in found.sentences():
        typer.echo(line)
