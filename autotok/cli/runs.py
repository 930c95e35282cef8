"""`autotok search | resume | pareto`: work that runs for minutes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import app, console, interrupted, print_json
from .options import (
    BackbonesOption,
    BatchOption,
    BudgetOption,
    CheckpointOption,
    ClassNamesOption,
    DeviceOption,
    EngineOption,
    EvaluatorOption,
    FinetunesOption,
    ImageSizeOption,
    JsonFlag,
    MeasureOnOption,
    ObjectiveOption,
    PrecisionOption,
    QualityOption,
    QuietFlag,
    RayAddressOption,
    ResourceOption,
    TimeoutOption,
    TrialsOption,
    TrialTimeoutOption,
    WideFlag,
    WorkersOption,
    spelt,
)

LISTED = ("methods", "formats", "image_sizes")
"""Options that take a list with commas."""


def _from_file(context: typer.Context, file: Path | None) -> Path | None:
    """Options of a file become the defaults: flags override them."""
    if file is not None:
        options = {str(p.name): p for p in context.command.params if p.name != "config"}
        many = [name for name, option in options.items() if option.multiple]
        flags = [name for name, option in options.items() if getattr(option, "is_flag", False)]
        context.default_map = autotok.read_options(
            file, options, listed=LISTED, many=many, flags=flags
        )
    return file


@app.command("search")
def search_command(
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_from_file,
            help="YAML file of these options; flags override it. `autotok init` writes one.",
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Device; see `autotok targets`.")] = None,
    budget: BudgetOption = None,
    objective: ObjectiveOption = None,
    batch: BatchOption = None,
    backbone: BackbonesOption = None,
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    data: Annotated[
        str | None, typer.Option(help="'demo', 'digits', 'cifar10' or an image folder.")
    ] = None,
    space: Annotated[str, typer.Option(help="Search space name or YAML file.")] = "default",
    methods: Annotated[
        str | None, typer.Option(help="Only these, as 'tome,evit'; all of the space.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(help="Number formats of the file: 'float32,int8'; float32 by default."),
    ] = None,
    image_sizes: Annotated[
        str | None,
        typer.Option(help="Sides it may run on: '160,192,224'; its own by default."),
    ] = None,
    subnet: Annotated[
        str, typer.Option(help="'fixed', or 'search': structure together with tokens.")
    ] = "fixed",
    train_data: Annotated[
        str | None, typer.Option(help="Images for fine-tunes; the data's training split.")
    ] = None,
    class_names: ClassNamesOption = None,
    quality: QualityOption = "auto",
    evaluator: EvaluatorOption = None,
    min_quality: Annotated[
        float | None,
        typer.Option(help="Percent (or most KL) that the final evaluation asks for at least."),
    ] = None,
    trials: TrialsOption = 32,
    timeout: TimeoutOption = 290.0,
    trial_timeout: TrialTimeoutOption = None,
    max_images: Annotated[
        int | None, typer.Option(min=8, help="Use at most this many images in all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same proposals.")] = 0,
    sampler: Annotated[
        str, typer.Option(help="auto (surrogate), tpe, nsgaii, gp, random, grid or MODULE:FACTORY.")
    ] = "auto",
    warm_start: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier run of the same model and images; may be repeated."),
    ] = None,
    flops_convention: Annotated[
        str, typer.Option(help="What FLOPs in a budget mean: macs, macs-noattn, flops2x.")
    ] = "macs",
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL instead of a journal file.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            help="Name of the study; by default 'autotok' in the run's journal file, and a new one"
            " in --storage."
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Go on with the trials of a --study that exists already.")
    ] = False,
    finetunes: FinetunesOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    resource: ResourceOption = None,
    measure_on: MeasureOnOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run directory; under runs/.")
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    wide: WideFlag = False,
) -> None:
    """Find the best ways to compress a model within a budget.

    Without --backbone and --data, the built-in demo: an AutoFormer supernet on cluttered digits.
    """
    began = time.monotonic()  # nothing heavy was imported before

    from .progress import SearchProgress

    settings = autotok.SearchSettings(
        n_trials=trials or autotok.SearchSettings.n_trials,
        timeout_s=timeout or None,
        min_quality=min_quality,
        seed=seed,
        sampler=sampler,
        objectives=tuple(objective or autotok.SearchSettings.objectives),
        storage=storage,
        study=study,
        join=join,
        retrain_trials=finetunes,
        trial_timeout_s=trial_timeout or None,
    )
    backbones = backbone or ["autoformer_demo"]
    folder = output or autotok.fresh_run_folder(backbones[0])
    with SearchProgress("search", quiet=quiet, echo=not (quiet or json)) as bar:
        run = _resumable(
            folder,
            lambda: autotok.search(
                backbones,
                data=data,
                budget=tuple(budget or ["2.3GFLOPs"]),
                target=target,
                checkpoint=checkpoint,
                image_size=image_size,
                space=space,
                methods=_names(methods),
                formats=_names(formats),
                image_sizes=_sides(image_sizes),
                quality=quality,
                evaluator=evaluator,
                flops_convention=flops_convention,
                train_data=train_data,
                class_names=class_names,
                subnet=subnet,
                batch=batch,
                max_images=max_images,
                workers=_workers(workers, engine, ray_address, resource),
                measure_on=measure_on,
                warm_start=warm_start or (),
                device=device,
                precision=precision,
                settings=settings,
                output=folder,
                on_event=bar,
                began=began,
            ),
        )
    print_closing(run, json=json, wide=wide)
    _insist_on_a_best(run)


@app.command("resume")
def resume_command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    storage: Annotated[
        str | None, typer.Option(help="The study's URL, where it moved or for its password.")
    ] = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    resource: ResourceOption = None,
    measure_on: Annotated[
        str | None, typer.Option(help="Another device to time on from now on; 'none': without one.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Another device for models from now on, as for search.", callback=spelt),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    wide: WideFlag = False,
) -> None:
    """Go on with an interrupted search; nothing finished is run again."""
    began = time.monotonic()  # nothing heavy was imported before

    from .progress import SearchProgress

    with SearchProgress("resume", quiet=quiet) as bar:
        finished = _resumable(
            run,
            lambda: autotok.resume(
                run,
                n_trials=trials,
                timeout_s=timeout,
                storage=storage,
                workers=_workers(workers, engine, ray_address, resource),
                measure_on=measure_on,
                device=device,
                on_event=bar,
                began=began,
            ),
        )
    print_closing(finished, json=json, wide=wide)
    _insist_on_a_best(finished)


@app.command("pareto")
def pareto_command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    x: Annotated[str | None, typer.Option("--x", help="The front over this metric ...")] = None,
    y: Annotated[str | None, typer.Option("--y", help="... and this one, drawn too.")] = None,
    json: JsonFlag = False,
    wide: WideFlag = False,
) -> None:
    """Show the Pareto front, the best and the random control of a finished run.

    With --x or --y, the front over any two metrics, such as --x latency --y top1.
    """
    found = autotok.Run(run)
    if x is None and y is None:
        return print_closing(found, json=json, wide=wide)
    axes = x or "macs", y or "quality"
    if json:
        return print_json(autotok.front_data(found, *axes))
    return _print_parts(autotok.front_parts(found, *axes), wide)


def _names(text: str | None) -> list[str]:
    """Of a list with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _sides(text: str | None) -> list[int]:
    """Pixels, of a list with commas."""
    found = _names(text)
    if not all(side.isdecimal() for side in found):
        raise autotok.ConfigError(
            f"--image-sizes '{text}' is no list of whole numbers; give pixels, such as 160,192,224"
        )
    return [int(side) for side in found]


def _workers(
    count: int | None, engine: str, ray_address: str | None, resource: list[str] | None
) -> autotok.Workers:
    """The flags about who evaluates, as one value."""
    return autotok.Workers(count, engine, ray_address, autotok.parse_resources(resource or []))


def _resumable(folder: Path, work: Any) -> autotok.Run:
    """Run the work; an interruption, or a device that is gone, says how to go on."""
    again = f"autotok resume {shlex.quote(str(folder))}"
    try:
        run: autotok.Run = work()
    except KeyboardInterrupt as error:
        go_on = "nothing had begun"
        if (folder / "config.yaml").is_file():
            go_on = f"everything finished is kept: go on with `{again}`"
        interrupted(error, go_on)
    except autotok.DeviceUnreachable as error:
        if not (folder / "config.yaml").is_file():
            raise
        raise autotok.DeviceUnreachable(
            f"{error}; nothing finished is lost: go on with `{again}`, without the"
            f" device by `{again} --measure-on none`"
        ) from error
    return run


def _insist_on_a_best(run: autotok.Run) -> None:
    """A search that can recommend nothing has not done what it was asked: exit code 1."""
    if run.records()["best"] is None:
        raise typer.Exit(1)


def print_closing(run: autotok.Run, *, json: bool, wide: bool) -> None:
    """Say what a finished run found."""
    if json:
        print_json(autotok.closing_data(run))
        return
    _print_parts(autotok.closing_parts(run, wide=wide), wide)


def _print_parts(parts: Sequence[Any], wide: bool) -> None:
    screen = console(wide=wide)
    for part in parts:
        screen.print(part, markup=False, soft_wrap=isinstance(part, str))
