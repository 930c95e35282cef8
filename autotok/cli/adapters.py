"""`autotok adapters`: train what lets one set of weights run at other degrees of merging."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import app, show
from .options import BackboneOption, CheckpointOption, DeviceOption, JsonFlag, QuietFlag


@app.command("adapters")
def adapters_command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .safetensors file for the adapters.")
    ],
    backbone: BackboneOption = "autoformer_demo",
    checkpoint: CheckpointOption = None,
    data: Annotated[
        str, typer.Option(help="'demo', 'digits', 'cifar10' or an image folder; labels unused.")
    ] = "demo",
    steps: Annotated[int | None, typer.Option(help="Training steps; 1000.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step; 16.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start; 2e-3.")] = None,
    scale: Annotated[float | None, typer.Option(help="Weight of the adapters; 0.1.")] = None,
    group_width: Annotated[int | None, typer.Option(help="Hidden units per degree; 2.")] = None,
    augment: Annotated[str | None, typer.Option(help="none or crop-flip; crop-flip.")] = None,
    seed: Annotated[int | None, typer.Option(help="Order of images and degrees; 0.")] = None,
    device: DeviceOption = "auto",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train ToCom's adapters of a model, once, for `--method tocom --option adapters=FILE`."""
    asked: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "scale": scale,
        "group_width": group_width,
        "augment": augment,
        "seed": seed,
    }
    spec = autotok.PairSpec(**{key: value for key, value in asked.items() if value is not None})
    from .progress import StepProgress

    losses: list[float] = []
    with StepProgress("training", quiet=quiet) as bar:

        def tell(step: int, loss: float) -> None:
            losses.append(loss)
            bar.update((step + 1) / spec.steps, f"step {step + 1} of {spec.steps}, loss {loss:.4g}")

        written = autotok.train_adapters(
            backbone,
            output,
            data=data,
            spec=spec,
            checkpoint=checkpoint,
            device=device,
            on_step=tell,
        )
    found = {"adapters": str(written), "backbone": backbone, "steps": spec.steps}
    facts = {**found, "scale": spec.scale, "last_loss": losses[-1]}
    show(facts if json else {**facts, "last_loss": f"{losses[-1]:.4g}"}, json)
