"""`autotok finetune`: train a compressed model a little, so that it recovers what it lost."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import BackboneOption, CheckpointOption, JsonFlag, QuietFlag, app, print_facts, print_json

if TYPE_CHECKING:
    from autotok.config import FineTuneSpec

INTERRUPTED = 130


@app.command()
def finetune(
    config: Annotated[Path, typer.Argument(help="A best.yaml, or the folder of a bundle.")],
    data: Annotated[
        str | None,
        typer.Option(help="'demo', 'digits', 'cifar10' or a folder with train/ and val/; demo."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the result; under runs/.")
    ] = None,
    length: Annotated[
        str | None, typer.Option(help="'500 steps', '3 epochs' or '5 minutes'; 200 steps.")
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=WEIGHT, may be repeated; soft=1.0. Names: ce, soft, deit_soft, hard, dkd,"
            " cosine, mimic, relations, tokens."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches per step.")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of averaged weights; 0: the last ones.")
    ] = None,
    augment: Annotated[str | None, typer.Option(help="none or crop-flip.")] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the images and the like.")] = None,
    backbone: BackboneOption | None = None,
    checkpoint: CheckpointOption = None,
    images: Annotated[int | None, typer.Option(min=1, help="Validation images; 500.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bf16 or float32.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted one in --output.")
    ] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fine-tune a compressed model, by distillation from the uncompressed one.

    Quality is measured before and after on the validation images; the result is a bundle.
    """
    changes = {
        "length": length,
        "losses": _losses(loss),
        "lr": lr,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "ema_decay": ema,
        "augment": augment,
        "seed": seed,
    }
    others: dict[str, Any] = {
        "data": data,
        "backbone": backbone,
        "checkpoint": checkpoint,
        "num_images": images,
        "precision": precision,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    others = {key: value for key, value in others.items() if value is not None}
    folder = output or _usual_folder(config)
    if resume:
        others = _stored(folder, [*changes, *others])
    else:
        others["spec"] = _spec(config, changes)
    _run(config, folder, others, resume=resume, json=json, quiet=quiet)


def _run(
    config: Path, folder: Path, arguments: dict[str, Any], *, resume: bool, json: bool, quiet: bool
) -> None:
    from autotok.api.finetune import finetune as run
    from autotok.evaluation.allocator import reuse_large_blocks

    from .progress import StepProgress

    reuse_large_blocks()
    with StepProgress("fine-tuning", quiet=quiet) as bar:
        bar.update(0.0, "loading the model and the images", important=True)
        try:
            result = run(
                config, output=folder, resume=resume, on_progress=bar.update, **arguments
            ).to_dict()
        except KeyboardInterrupt:
            again = f"autotok finetune {shlex.quote(str(config))} -o {shlex.quote(str(folder))}"
            sys.stderr.write(f"autotok: interrupted; go on with `{again} --resume`\n")
            raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json(result)
    else:
        print_facts(result)


def _usual_folder(config: Path) -> Path:
    """A folder that the same best.yaml always means."""
    from autotok.export.bundle import read_best

    found = read_best(config)
    return Path("runs") / f"finetune-{found.backbone.name}-{found.config.config_id}"


def _spec(config: Path, changes: dict[str, Any]) -> FineTuneSpec | None:
    """What the options say on top of what the configuration says; None where neither does."""
    import dataclasses

    from autotok.config import FineTuneSpec
    from autotok.export.bundle import read_best

    if not changes:
        return None
    return dataclasses.replace(read_best(config).config.finetune or FineTuneSpec(), **changes)


def _stored(folder: Path, given: list[str]) -> dict[str, Any]:
    """The arguments that an interrupted fine-tune was started with."""
    from autotok.api.finetune import read_question
    from autotok.errors import ConfigError

    if given:
        name = given[0].replace("_", "-")
        raise ConfigError(
            f"--resume goes on as it was started, so '{name}' cannot be given; leave it out"
        )
    return read_question(folder)


def _losses(given: list[str] | None) -> dict[str, float] | None:
    """`NAME=WEIGHT` terms as weights by name."""
    from autotok.errors import ConfigError

    if not given:
        return None
    found = {}
    for text in given:
        name, _, weight = text.partition("=")
        try:
            found[name.strip()] = float(weight or 1.0)
        except ValueError:
            raise ConfigError(
                f"loss '{text}' is not understood; write NAME=WEIGHT, such as soft=1.0"
            ) from None
    return found
