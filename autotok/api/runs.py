"""Searches: build the problem, run or resume the study, and hand over what it found."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotok.devices.placing import check_device
from autotok.errors import ConfigError
from autotok.names import ENGINES, is_named, known, text_of
from autotok.searching.engines.base import Workers
from autotok.searching.engines.worker_process import leave_if_reimported
from autotok.searching.records.objective import judged_by
from autotok.searching.records.rundir import RunDirectory, fresh_run_folder
from autotok.searching.running.events import Asked, OnEvent
from autotok.searching.running.question import Question, check_names, check_several
from autotok.searching.space.settings import DEFAULT_TIMEOUT_S, DEFAULT_TRIALS, SearchSettings

if TYPE_CHECKING:  # what is wrong with a question is said before torch is imported
    from torch import nn

    from autotok.evaluation.own_quality import OwnFunction, OwnQuality
    from autotok.report.run import Run
    from autotok.report.search_run import WholeSearch


def search(
    backbone: str | nn.Module | Sequence[str] = "autoformer_demo",
    *,
    data: str | Path | None = None,
    budget: str | Sequence[str] = "2.3GFLOPs",
    target: str | Path | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    space: str | Path = "default",
    methods: Sequence[str] = (),
    formats: Sequence[str] = (),
    image_sizes: Sequence[int] = (),
    quality: str = "auto",
    evaluator: str | OwnFunction | None = None,
    flops_convention: str = "macs",
    batch: int | None = None,
    max_images: int | None = None,
    train_data: str | Path | None = None,
    class_names: str | Path | None = None,
    subnet: str = "fixed",
    n_trials: int = DEFAULT_TRIALS,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
    min_trials: int = SearchSettings.min_trials,
    seed: int = SearchSettings.seed,
    sampler: str = SearchSettings.sampler,
    objectives: Sequence[str] = SearchSettings.objectives,
    storage: str | None = None,
    study: str | None = None,
    join: bool = False,
    images_few: int | None = None,
    images_more: int | None = None,
    images_final: int | None = None,
    front_size: int = SearchSettings.front_size,
    min_quality: float | None = None,
    control_shapes: int = SearchSettings.control_shapes,
    retrain_trials: int | None = None,
    trial_timeout_s: float | None = None,
    settings: SearchSettings | None = None,
    workers: Workers | None = None,
    measure_on: str | None = None,
    warm_start: Sequence[str | Path] = (),
    device: str = "auto",
    precision: str = "auto",
    output: str | Path | None = None,
    on_event: OnEvent | None = None,
    began: float | None = None,
) -> Run:
    """Search for the best ways to compress a backbone within a budget; returns the finished run.

    Args:
        backbone: A name (see `autotok backbones`), or a model (then `resume` needs it again);
            several names are searched together, as controls of each other, judged by right answers.
        data: 'demo', 'digits', 'cifar10' or an image folder; 'demo' by default for the demo.
        budget: One or more of '2.3GFLOPs', '50%', '26ms', '1500img/s', '600MB', '12Mparams'.
        target: Device name or YAML file; needed by budgets and objectives on the device.
        checkpoint: Weight file of the backbone.
        image_size: Input side in pixels, timm models only.
        space: Search space name or YAML file.
        quality: 'auto', 'top1', 'agreement', 'kl', 'feature', 'knn' or 'knn_top1'; 'own_loss'
            where less of what `evaluator` says is better.
        evaluator: A quality of your own: a function of a model and a batch of images that gives one
            number per image, or `module:function`; see `autotok.evaluation.own_quality`.
        flops_convention: What FLOPs in a budget mean: 'macs', 'macs-noattn' or 'flops2x'.
        batch: Images at a time that latency, throughput, memory and energy mean; the target's own
            by default.
        max_images: At most this many images count as the validation split.
        train_data: Images that fine-tunes train on; the training split of `data` by default.
            Without any, configurations are plugged in only.
        class_names: File of the model's class names in order, one a line or JSON, by which class
            folders (or a `labels.csv` of file,class) get their labels.
        subnet: 'fixed', or 'search' to look for structure together with tokens: the subnet of a
            supernet, or what pruning leaves of another ViT.
        methods: Names of the only methods to try; those of the space by default.
        formats: Number formats of the exported file to search, such as float32 and int8, each
            judged on that file; those of the space by default.
        image_sizes: Sides in pixels that the model may run on, multiples of its patch size; those
            of the space by default, else its own.
        n_trials: Different configurations to evaluate; this and what follows, down to
            `trial_timeout_s`, are the fields of `SearchSettings`.
        settings: All of those as one value, instead of them.
        workers: Processes or machines that evaluate; this process by default.
        measure_on: Where finalists are timed: 'local', 'ssh://user@host[:port]' or 'ray:RESOURCE'.
        device: Where models run: 'auto' (a GPU where there is one), 'cpu', 'cuda[:N]' or 'mps'.
        precision: What models are judged in: 'float32', 'bfloat16' or 'float16'; 'auto' is the
            fastest that agrees with float32 on the first images. The run keeps what it came to.
        warm_start: Earlier runs of the same model and images, whatever their budget: their front is
            tried first, and a surrogate learns from what they evaluated.
        output: Run directory, new; under runs/ by default.
        on_event: Called with progress.
        began: `time.monotonic()` from which the time limit counts; this call by default.

    Raises:
        UsageError: a name, value or file that cannot be; the message says which.
        NothingEvaluated: no trial came to an end; the message says what was missing.
        InfeasibleBudget: nothing in the space meets the budget.
        DeviceUnreachable: the device does not answer; `resume` goes on from there.
    """
    leave_if_reimported()
    began = time.monotonic() if began is None else began
    model, names = _model_and_names(backbone)
    named = names[0]
    settings = _one_of(
        settings,
        SearchSettings(
            n_trials=n_trials,
            timeout_s=timeout_s,
            min_trials=min_trials,
            seed=seed,
            sampler=sampler,
            objectives=tuple(objectives),
            storage=storage,
            study=study,
            join=join,
            images_few=images_few,
            images_more=images_more,
            images_final=images_final,
            front_size=front_size,
            min_quality=min_quality,
            control_shapes=control_shapes,
            retrain_trials=retrain_trials,
            trial_timeout_s=trial_timeout_s,
        ),
    )
    question = Question(
        backbone=named,
        backbones=names if len(names) > 1 else (),
        checkpoint=None if checkpoint is None else str(Path(checkpoint).absolute()),
        image_size=image_size,
        data=_absolute(data or "demo"),
        budgets=(budget,) if isinstance(budget, str) else tuple(budget),
        flops_convention=flops_convention,
        target=None if target is None else str(target),
        space=str(space),
        methods=tuple(methods),
        formats=tuple(formats),
        image_sizes=tuple(image_sizes),
        quality=judged_by(settings.objectives, quality),
        evaluator=None if evaluator is None else text_of(evaluator),
        train_data=None if train_data is None else _absolute(train_data),
        class_names=None if class_names is None else str(Path(class_names).absolute()),
        subnet=subnet,
        batch=batch,
        max_images=max_images,
        measure_on=measure_on,
        device=device,
        precision=precision,
    )
    workers = workers or Workers()
    check_names(question, engine=workers.engine, objectives=settings.objectives)
    folder = Path(output or fresh_run_folder(named))
    RunDirectory.check_new(folder)
    if on_event is not None:
        on_event(Asked(0.0, question.requests))

    # from here on it takes seconds: torch, what was named, and the search itself
    from autotok.backbones.loading import check_file, check_name
    from autotok.evaluation.data import check_data

    for name in () if model is not None else names:
        check_name(name)
    if data is None and names != ("autoformer_demo",):
        raise ConfigError(
            f"backbone '{names[-1]}' needs images to be judged on: give --data FOLDER"
        )
    check_data(question.data, question.train_data, question.class_names)
    check_file(None if checkpoint is None else Path(checkpoint))
    earlier = tuple(Path(run) for run in warm_start)
    own = _own(evaluator)
    with _whole(question, settings, folder, began, model, workers, on_event, earlier, own) as whole:
        return whole.begin()


def _own(evaluator: object) -> OwnQuality | None:
    """A quality of the user's own, where one is given."""
    from autotok.evaluation.own_quality import OwnQuality

    return None if evaluator is None else OwnQuality.of(evaluator)


def _model_and_names(
    backbone: str | nn.Module | Sequence[str],
) -> tuple[nn.Module | None, tuple[str, ...]]:
    """(the model, where it is an object; the name, or names, of what is searched)."""
    if isinstance(backbone, str):
        return None, (backbone,)
    if not isinstance(backbone, Sequence):
        return backbone, (_name_of(backbone),)
    others = [type(name).__name__ for name in backbone if not isinstance(name, str)]
    if others or not backbone:
        raise ConfigError(
            f"several backbones are given by name, not as {', '.join(others) or 'an empty list'};"
            " give names, such as ['deit_small_patch16_224', 'deit_tiny_patch16_224'], or one model"
        )
    return None, tuple(backbone)


def _name_of(model: nn.Module) -> str:
    from autotok.backbones.base import leaving_alone
    from autotok.backbones.loading import as_backbone

    with leaving_alone(model):
        return as_backbone(model).facts.name


def _absolute(data: str | Path) -> str:
    """The same data under a path that means it from everywhere."""
    spec = str(data)
    if not is_named(spec):
        return str(Path(spec).expanduser().absolute())
    folder = spec.partition(":")[2]
    return f"cifar10:{Path(folder).expanduser().absolute()}" if folder else spec


def _one_of(settings: SearchSettings | None, keywords: SearchSettings) -> SearchSettings:
    """What was given: one value, or single keywords; both is an error."""
    usual = SearchSettings(n_trials=DEFAULT_TRIALS, timeout_s=DEFAULT_TIMEOUT_S)
    if settings is not None and keywords != usual:
        raise ConfigError("give either settings or single keywords of them, not both")
    return settings or keywords


def resume(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    n_trials: int | None = None,
    timeout_s: float | None = None,
    storage: str | None = None,
    sampler: object = None,
    workers: Workers | None = None,
    measure_on: str | None = None,
    device: str | None = None,
    evaluator: str | OwnFunction | None = None,
    on_event: OnEvent | None = None,
    began: float | None = None,
) -> Run:
    """Go on with an interrupted run, or extend a finished one; returns the finished run.

    Finished trials stay, those that were in flight run again. `model` is needed where the run was
    started with one; `measure_on` and `device` replace the run's from now on, 'none' goes on
    without measuring; `storage` is the URL of its study where that has moved, or where its password
    is not in the environment; `sampler` is needed where the run was started with a Python object
    that no name means, and so is `evaluator`. What the run judged in, it goes on to judge in.

    `n_trials` counts plug-in trials; more of them earn more fine-tunes, and `timeout_s` (0: no
    limit) more images of a final evaluation of its own. What was fine-tuned or measured before is
    known to proposals that follow, so that such a run is not, trial by trial, one that was longer
    from the start.
    """
    leave_if_reimported()
    began = time.monotonic() if began is None else began
    directory = RunDirectory.open(run)
    config = directory.read_config()
    question = directory.section("question", Question)
    if config.get("embedded_model") and model is None:
        raise ConfigError(f"run '{run}' was started with a model object: give the same one again")
    settings = directory.section("search", SearchSettings)
    given = {"n_trials": n_trials, "timeout_s": timeout_s, "storage": storage, "sampler": sampler}
    settings = settings.changed(given)
    workers = workers or Workers()
    known("engine", workers.engine, ENGINES)
    if measure_on is not None:
        chosen = None if measure_on == "none" else measure_on
        question = dataclasses.replace(question, measure_on=chosen)
    if device is not None:
        check_device(device)
        question = dataclasses.replace(question, device=device)
    check_several(question, workers.engine)
    judged_by_object = (question.evaluator or "").startswith("<")  # which nothing tells from others
    if evaluator is not None and not judged_by_object and text_of(evaluator) != question.evaluator:
        raise ConfigError(
            f"run '{run}' was judged by {question.evaluator or question.quality}, not by"
            f" {text_of(evaluator)}, and its trials are compared; start a new run for another"
            " evaluator"
        )
    own = _own(question.evaluator if evaluator is None else evaluator)
    with _whole(question, settings, Path(run), began, model, workers, on_event, own=own) as whole:
        return whole.resume(given)


@contextlib.contextmanager
def _whole(
    question: Question,
    settings: SearchSettings,
    folder: Path,
    began: float,
    model: nn.Module | None,
    workers: Workers,
    on_event: OnEvent | None,
    warm_start: tuple[Path, ...] = (),
    own: OwnQuality | None = None,
) -> Iterator[WholeSearch]:
    """What surrounds the study; the model is left alone."""
    from autotok.backbones.base import leaving_alone
    from autotok.report.search_run import WholeSearch
    from autotok.searching.running.stopwatch import Stopwatch

    watch = Stopwatch(began)
    with leaving_alone(model):
        yield WholeSearch(
            question, settings, folder, watch, model, workers, on_event, warm_start, own
        )
