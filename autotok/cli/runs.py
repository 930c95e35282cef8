"""`autotok search | resume | pareto`: work that runs for minutes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import (
    BackboneOption,
    CheckpointOption,
    ClassNamesOption,
    ImageSizeOption,
    JsonFlag,
    QuietFlag,
    VerboseFlag,
    app,
    configure_logging,
    print_json,
)

if TYPE_CHECKING:
    from autotok.api.runs import Run, Workers

INTERRUPTED = 130

BudgetOption = Annotated[
    list[str] | None,
    typer.Option(help="'2.3GFLOPs', '50%', '26ms', '1500img/s', '600MB'; may be repeated."),
]
ObjectiveOption = Annotated[
    list[str] | None,
    typer.Option(
        help="quality (top1, agreement, kl), macs, params, latency, throughput, memory, energy; up"
        " to four, the first decides what is best; quality and macs by default."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(min=1, help="Images at a time that latency, throughput and memory mean."),
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", min=1, help="Different configurations to evaluate.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0, help="Seconds for the whole command; 0: no limit."),
]
FinetunesOption = Annotated[
    int | None,
    typer.Option("--finetunes", min=0, help="At most this many promotions; 0: no fine-tune."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", "-j", min=1, help="Jobs at a time.")
]
EngineOption = Annotated[str, typer.Option(help="local or ray.")]
RayAddressOption = Annotated[
    str | None, typer.Option(help="A running Ray cluster, or 'auto'; else Ray starts here.")
]
ResourceOption = Annotated[
    list[str] | None,
    typer.Option(help="What a job needs on Ray: CPU=1, GPU=0.5, jetson=1; may be repeated."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Measure finalists on 'local', ssh://user@host[:port] or ray:RESOURCE."),
]
TrialTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--trial-timeout",
        min=0,
        help="Seconds for one trial's images; one that takes longer hangs and fails; 0: none.",
    ),
]


@app.command()
def search(
    target: Annotated[str | None, typer.Option(help="Device; see `autotok targets`.")] = None,
    budget: BudgetOption = None,
    objective: ObjectiveOption = None,
    batch: BatchOption = None,
    backbone: BackboneOption = "autoformer_demo",
    checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    data: Annotated[
        str | None, typer.Option(help="'demo', 'digits', 'cifar10' or an image folder.")
    ] = None,
    space: Annotated[str, typer.Option(help="Search space name or YAML file.")] = "default",
    subnet: Annotated[
        str, typer.Option(help="'fixed', or 'search' subnets of a supernet together with tokens.")
    ] = "fixed",
    train_data: Annotated[
        str | None, typer.Option(help="Images for fine-tunes; the data's training split.")
    ] = None,
    class_names: ClassNamesOption = None,
    quality: Annotated[str, typer.Option(help="auto, top1, agreement or kl.")] = "auto",
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    trial_timeout: TrialTimeoutOption = None,
    max_images: Annotated[
        int | None, typer.Option(min=8, help="Use at most this many images in all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same proposals.")] = 0,
    sampler: Annotated[
        str, typer.Option(help="tpe, nsgaii, gp, random, grid or MODULE:FACTORY.")
    ] = "tpe",
    flops_convention: Annotated[
        str, typer.Option(help="What FLOPs in a budget mean: macs, macs-noattn, flops2x.")
    ] = "macs",
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL instead of a journal file.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study in --storage; a new one by default.")
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Go on with the trials of a --study that exists already.")
    ] = False,
    finetunes: FinetunesOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    resource: ResourceOption = None,
    device: DeviceOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run directory; under runs/.")
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Find the best ways to compress a model within a budget.

    Without --backbone and --data, the built-in demo: an AutoFormer supernet on cluttered digits.
    """
    began = time.monotonic()  # nothing heavy was imported before
    configure_logging(verbose=verbose, quiet=quiet)
    from autotok.searching.records.objective import DEFAULT_OBJECTIVES
    from autotok.searching.records.rundir import RunDirectory
    from autotok.searching.running.preflight import Asked, check_names
    from autotok.searching.space.settings import DEFAULT_TIMEOUT_S, DEFAULT_TRIALS, SearchSettings

    from .closing import announce
    from .progress import SearchProgress

    settings = SearchSettings(
        n_trials=trials or DEFAULT_TRIALS,
        timeout_s=_limit(timeout, DEFAULT_TIMEOUT_S),
        seed=seed,
        sampler=sampler,
        objectives=tuple(objective or DEFAULT_OBJECTIVES),
        storage=storage,
        study=study,
        join=join,
        retrain_trials=finetunes,
        trial_timeout_s=trial_timeout or None,
    )
    budgets = budget or ["2.3GFLOPs"]
    check_names(
        Asked(
            budgets=budgets,
            objectives=settings.objectives,
            flops_convention=flops_convention,
            target=target,
            quality=quality,
            subnet=subnet,
            engine=engine,
            device=device,
            space=space,
        )
    )
    if output is not None:
        RunDirectory.check_new(output)
    if not quiet and not json:
        announce(budgets, flops_convention)
    from autotok.api import runs

    folder = output or runs.fresh_run_folder(backbone)
    with SearchProgress("search", quiet=quiet) as bar:
        run = _resumable(
            folder,
            lambda: runs.search(
                backbone,
                data=data,
                budget=budgets,
                target=target,
                checkpoint=checkpoint,
                image_size=image_size,
                space=space,
                quality=quality,
                flops_convention=flops_convention,
                train_data=train_data,
                class_names=class_names,
                subnet=subnet,
                batch=batch,
                max_images=max_images,
                workers=_workers(workers, engine, ray_address, resource),
                device=device,
                settings=settings,
                output=folder,
                on_event=bar,
                began=began,
            ),
        )
    _close(run, json)
    _insist_on_a_best(run)


@app.command()
def resume(
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
    device: Annotated[
        str | None,
        typer.Option(help="Another device than the run's from now on; 'none': without one."),
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Go on with an interrupted search; nothing finished is run again."""
    began = time.monotonic()  # nothing heavy was imported before
    configure_logging(verbose=verbose, quiet=quiet)
    from autotok.api import runs

    from .progress import SearchProgress

    with SearchProgress("resume", quiet=quiet) as bar:
        finished = _resumable(
            run,
            lambda: runs.resume(
                run,
                n_trials=trials,
                timeout_s=timeout or None,
                storage=storage,
                workers=_workers(workers, engine, ray_address, resource),
                device=device,
                on_event=bar,
                began=began,
            ),
        )
    _close(finished, json)
    _insist_on_a_best(finished)


@app.command()
def pareto(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    x: Annotated[str | None, typer.Option("--x", help="The front over this metric ...")] = None,
    y: Annotated[str | None, typer.Option("--y", help="... and this one, drawn too.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show the Pareto front, the best and the random control of a finished run.

    With --x or --y, the front over any two metrics, such as --x latency --y top1.
    """
    from autotok.api.runs import Run

    if x is None and y is None:
        return _close(Run(run), json)
    from .closing import front_data, print_front

    axes = x or "macs", y or "quality"
    return print_json(front_data(Run(run), *axes)) if json else print_front(Run(run), *axes)


def _workers(
    count: int | None, engine: str, ray_address: str | None, resource: list[str] | None
) -> Workers:
    """The flags about who evaluates, as one value."""
    from autotok.api.arguments import parse_resources
    from autotok.api.runs import Workers

    return Workers(count, engine, ray_address, parse_resources(resource or []))


def _limit(given: float | None, default: float) -> float | None:
    return default if given is None else given or None


def _resumable(folder: Path, work: Any) -> Run:
    """Run the work; an interruption, or a device that is gone, says how to go on."""
    from autotok.errors import DeviceUnreachable

    try:
        run: Run = work()
    except KeyboardInterrupt as error:
        how = str(error) or "interrupted"
        go_on = "nothing had begun"
        if (folder / "config.yaml").is_file():
            go_on = f"everything finished is kept: go on with `autotok resume {folder}`"
        sys.stderr.write(f"autotok: {how}; {go_on}\n")
        raise typer.Exit(INTERRUPTED) from None
    except DeviceUnreachable as error:
        if not (folder / "config.yaml").is_file():
            raise
        raise DeviceUnreachable(
            f"{error}; nothing finished is lost: go on with `autotok resume {folder}`, without the"
            f" device by `autotok resume {folder} --device none`"
        ) from error
    return run


def _insist_on_a_best(run: Run) -> None:
    """A search that can recommend nothing has not done what it was asked: exit code 1."""
    if run.records()["best"] is None:
        raise typer.Exit(1)


def _close(run: Run, json: bool) -> None:
    from .closing import closing_data, print_closing

    if json:
        print_json(closing_data(run))
    else:
        print_closing(run)
