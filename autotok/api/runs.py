"""Searches: build the problem, run or resume the study, and hand over what it found."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autotok.backbones.base import left_alone
from autotok.backbones.loading import as_backbone, check_name, load_backbone
from autotok.compression.compress import compress_backbone, with_networks
from autotok.compression.model import CompressedViT
from autotok.devices.device import leaving, ready_device
from autotok.errors import ConfigError, RunDirectoryError
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import absolute
from autotok.metrics import Metric, metric_of
from autotok.names import ENGINES, known
from autotok.report.fronts import FrontOver, front_over
from autotok.report.handover import hand_over, limits_of, points_of
from autotok.report.plots import pareto_png
from autotok.report.points import Point
from autotok.searching.engines.base import Engine
from autotok.searching.engines.workers import leave_if_reimported
from autotok.searching.proposing.samplers import check_sampler
from autotok.searching.proposing.storage import check_storage
from autotok.searching.records.comparison import Comparisons
from autotok.searching.records.objective import judged_by
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.events import Event, FineTuneStep, OnEvent, Working
from autotok.searching.running.model_worker import WEIGHTS_FOLDER
from autotok.searching.running.preflight import Asked, check_hand_over, check_names
from autotok.searching.running.session import Question, Session, build_problem, measuring_on
from autotok.searching.running.stopwatch import Stopwatch
from autotok.searching.running.study import SearchResult, resume_search, run_search
from autotok.searching.space.budget import Budget
from autotok.searching.space.settings import DEFAULT_TIMEOUT_S, DEFAULT_TRIALS, SearchSettings
from autotok.training.student import retrained

from .finetune import finetune_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "Workers", "fresh_run_folder", "resume", "search"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """Who evaluates and fine-tunes: this process, N processes, or a Ray cluster."""

    count: int | None = None
    """Jobs at a time; 1, or what the cluster's CPUs allow."""
    engine: str = "local"
    """'local' or 'ray'."""
    ray_address: str | None = None
    """Of a running cluster, or 'auto'; None starts Ray here, on the loopback address only."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Per job on Ray: CPU, GPU (fractions allowed), or a resource that nodes carry."""


class Run:
    """A finished or unfinished run directory."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = RunDirectory.open(directory).path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The effective configuration, config.yaml."""
        return RunDirectory.open(self.directory).read_config()

    def front(self) -> pd.DataFrame:
        """The Pareto front, cheapest first: pareto.csv."""
        return self._table("pareto.csv")

    def trials(self) -> pd.DataFrame:
        """Every trial: trials.csv."""
        return self._table("trials.csv")

    def records(self) -> dict[str, Any]:
        """What the final evaluation found: `best`, `random_control`, `reference`, `front`,
        `controls`, `budgets`, `comparisons`, `measuring`."""
        import json

        path = self._finished() / "pareto.json"
        try:
            return _records(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as why:
            raise self._damaged(path, why) from why

    def _damaged(self, path: Path, error: Exception) -> RunDirectoryError:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        return RunDirectoryError(
            f"run file {path} is damaged ({reason}); write it again with"
            f" `autotok resume {self.directory}`"
        )

    def best(self) -> TrialRecord:
        """The recommended configuration with its evidence."""
        record = self.records()["best"]
        if record is None:
            raise RunDirectoryError(f"run '{self.directory}' found nothing inside its budget")
        assert isinstance(record, TrialRecord)
        return record

    def load_best(self, model: nn.Module | None = None) -> CompressedViT:
        """The recommended model, rebuilt; `model` replaces the backbone that the run names."""
        return self.load(self.best(), model)

    def load(self, record: TrialRecord, model: nn.Module | None = None) -> CompressedViT:
        """The model of one configuration of the front, with its fine-tuned weights if it has some.

        Raises:
            CheckpointError: its weights are not in the run directory.
        """
        question, config = RunDirectory(self.directory).section("question", Question), record.config
        assert config is not None
        if model is None:
            model = load_backbone(
                question.backbone,
                checkpoint=None if question.checkpoint is None else Path(question.checkpoint),
                image_size=question.image_size,
                subnet=config.subnet,
            )
        if config.mode == "plug-in":
            return with_networks(compress_backbone(as_backbone(model), config))
        path = self.directory / WEIGHTS_FOLDER / f"{config.config_id}.safetensors"
        return retrained(as_backbone(model), config, path)

    def front_over(self, *metrics: str) -> FrontOver:
        """The front over any metrics, such as 'latency' and 'top1', of all that was evaluated.

        Raises:
            UnknownName: no such metric.
            RunDirectoryError: the run knows no values of one, or is not finished.
        """
        return front_over(self._points(), self._metrics(metrics))

    def picture_over(self, x: str, y: str) -> Path:
        """pareto-X-Y.png of the run directory, drawn: two metrics against each other."""
        across, up = self._metrics((x, y))
        found, points = self.front_over(x, y), self._points()
        numbers = {p.number for p in found.points}
        kept = ("uncompressed", "random control")
        drawn = [
            p if p.kind in kept else _shown_as(p, "front" if p.number in numbers else "trial")
            for p in points
        ]
        path = self.directory / f"pareto-{across.column}-{up.column}.png"
        limits = limits_of(self.records()["budgets"])
        return pareto_png(path, drawn, up, x=across, limits=limits, title=self.directory.name)

    def _metrics(self, names: Sequence[str]) -> list[Metric]:
        """Rows of the table by name; 'quality', or another name of it, is what the run judged."""
        scores = [r.score for r in self.records()["front"] if r.score is not None]
        judged = scores[0].metric if scores else "top1"
        found = [metric_of(judged if n == "quality" else n, beside=["quality"]) for n in names]
        for metric in found:
            if metric.kind == "judged" and metric.name != judged:
                raise RunDirectoryError(
                    f"run '{self.directory}' judged {judged}, not {metric.name}; ask for {judged}"
                )
        if len(set(found)) != len(found):
            raise ConfigError(f"metrics {list(names)} must be different ones")
        return found

    def _points(self) -> list[Point]:
        """Everything that was evaluated; what the final evaluation judged, as it found it."""
        found = points_of(self.records())
        known = {p.number for p in found}
        metric = self._metrics(["quality"])[0]
        rows = [{str(k): v for k, v in r.items()} for r in self.trials().to_dict("records")]
        trials = [Point.from_row(r, metric) for r in rows if r["state"] == "complete"]
        return found + [p for p in trials if p.number not in known]

    def _finished(self) -> Path:
        if not (self.directory / "pareto.json").is_file():
            raise RunDirectoryError(
                f"run '{self.directory}' is not finished; go on with"
                f" `autotok resume {self.directory}`"
            )
        return self.directory

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        if not (self.directory / name).is_file():
            raise RunDirectoryError(
                f"run '{self.directory}' has no {name} yet; go on with"
                f" `autotok resume {self.directory}`"
            )
        try:
            return pd.read_csv(self.directory / name)
        except (OSError, ValueError) as error:  # pandas' own are ValueErrors
            raise self._damaged(self.directory / name, error) from error


def _shown_as(point: Point, kind: str) -> Point:
    return dataclasses.replace(point, kind=kind)


def _records(data: Mapping[str, Any]) -> dict[str, Any]:
    """What pareto.json holds, as `Run.records` gives it."""
    found: dict[str, Any] = {
        key: None if data[key] is None else TrialRecord.from_dict(data[key])
        for key in ("best", "random_control", "reference")
    }
    for key in ("front", "controls"):
        found[key] = [TrialRecord.from_dict(item) for item in data[key]]
    found["budgets"] = [Budget(**item) for item in data["budgets"]]
    found["comparisons"] = Comparisons.from_dict(data.get("comparisons"))
    found["measuring"] = data.get("measuring") or {}
    return found


def fresh_run_folder(backbone: str) -> Path:
    """A new folder name under runs/, such as runs/autoformer_demo-20260131-120000."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in backbone.split(".")[0])
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


@left_alone
def search(
    backbone: str | nn.Module = "autoformer_demo",
    *,
    data: str | None = None,
    budget: str | Sequence[str] = "2.3GFLOPs",
    target: str | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    space: str = "default",
    quality: str = "auto",
    flops_convention: str = "macs",
    batch: int | None = None,
    max_images: int | None = None,
    train_data: str | None = None,
    class_names: str | Path | None = None,
    subnet: str = "fixed",
    settings: SearchSettings | None = None,
    workers: Workers | None = None,
    device: str | None = None,
    output: str | Path | None = None,
    on_event: OnEvent | None = None,
    began: float | None = None,
) -> Run:
    """Search for the best ways to compress a backbone within a budget; returns the finished run.

    Args:
        backbone: A name (see `autotok backbones`), or a model (then `resume` needs it again).
        data: 'demo', 'digits', 'cifar10' or an image folder; 'demo' by default for the demo.
        budget: One or more of '2.3GFLOPs', '50%', '26ms', '1500img/s', '600MB', '12Mparams'.
        target: Device name or YAML file; needed by budgets and objectives on the device.
        checkpoint: Weight file of the backbone.
        image_size: Input side in pixels, timm models only.
        space: Search space name or YAML file.
        quality: 'auto', 'top1', 'agreement' or 'kl'.
        flops_convention: What FLOPs in a budget mean: 'macs', 'macs-noattn' or 'flops2x'.
        batch: Images at a time that latency, throughput, memory and energy mean; the target's own
            by default.
        max_images: At most this many images count as the validation split.
        train_data: Images that fine-tunes train on; the training split of `data` by default.
            Without any, configurations are plugged in only.
        class_names: File of the model's class names in order, one a line or JSON, by which class
            folders (or a `labels.csv` of file,class) get their labels.
        subnet: 'fixed', or 'search' to look for the subnet of a supernet together with its tokens.
        settings: Search effort and objectives; 32 configurations and 4 minutes by default.
        workers: Processes or machines that evaluate; this process by default.
        device: Where finalists are measured: 'local', 'ssh://user@host[:port]' or 'ray:RESOURCE'.
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
    watch = Stopwatch() if began is None else Stopwatch(began)
    named = backbone if isinstance(backbone, str) else as_backbone(backbone).facts.name
    if isinstance(backbone, str):
        check_name(backbone)
    workers = workers or Workers()
    budgets = (budget,) if isinstance(budget, str) else tuple(budget)
    settings = settings or SearchSettings(n_trials=DEFAULT_TRIALS, timeout_s=DEFAULT_TIMEOUT_S)
    quality = judged_by(settings.objectives, quality)
    check_names(
        Asked(
            budgets=budgets,
            objectives=settings.objectives,
            flops_convention=flops_convention,
            target=target,
            quality=quality,
            subnet=subnet,
            engine=workers.engine,
            device=device,
            space=space,
        )
    )
    if data is None and named != "autoformer_demo":
        raise ConfigError(f"backbone '{named}' needs images to be judged on: give --data FOLDER")
    data = data or "demo"
    question = Question(
        backbone=named,
        checkpoint=None if checkpoint is None else str(Path(checkpoint).absolute()),
        image_size=image_size,
        data=absolute(data),
        budgets=budgets,
        flops_convention=flops_convention,
        target=target,
        space=space,
        quality=quality,
        train_data=None if train_data is None else absolute(train_data),
        class_names=None if class_names is None else str(Path(class_names).absolute()),
        subnet=subnet,
        batch=batch,
        max_images=max_images,
        device=device,
    )
    check_storage(settings.storage)
    check_sampler(settings.sampler, objectives=len(settings.objectives))
    model = None if isinstance(backbone, str) else backbone
    reuse_large_blocks()
    folder = Path(output or fresh_run_folder(named))
    RunDirectory.check_new(folder)
    check_hand_over(folder)
    measurer = ready_device(device, ray_address=workers.ray_address)
    _say(on_event, 0.0, f"loading {named} and {question.data}")
    session = build_problem(
        question,
        model,
        seed=settings.seed,
        weights=folder / WEIGHTS_FOLDER,
        finetunes=settings.retrain_trials,
    )
    _say(on_event, 0.0, session.evaluator.data.labelling)
    watch.loaded()
    directory = RunDirectory.create(folder)
    _warn_of_plug_in_only(session, settings)
    with _engine(workers, session, model, settings, folder) as engine, leaving(measurer):
        result = run_search(
            settings,
            measuring_on(measurer, session),
            directory,
            _hearing_fine_tunes(session, on_event),
            sections={"question": question.to_dict(), "embedded_model": model is not None},
            engine=engine,
            around=watch.around(settings.timeout_s),
        )
    return _finish(session, result, watch, on_event)


@left_alone
def resume(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    n_trials: int | None = None,
    timeout_s: float | None = None,
    storage: str | None = None,
    sampler: object = None,
    workers: Workers | None = None,
    device: str | None = None,
    on_event: OnEvent | None = None,
    began: float | None = None,
) -> Run:
    """Go on with an interrupted run, or extend a finished one; returns the finished run.

    Finished trials stay, those that were in flight run again. `model` is needed where the run was
    started with one; `device` replaces the run's from now on, 'none' goes on without; `storage` is
    the URL of its study where that has moved, or where its password is not in the environment;
    `sampler` is needed where the run was started with a Python object that no name means.
    """
    leave_if_reimported()
    watch = Stopwatch() if began is None else Stopwatch(began)
    directory = RunDirectory.open(run)
    config, question = directory.read_config(), directory.section("question", Question)
    if config.get("embedded_model") and model is None:
        raise ConfigError(f"run '{run}' was started with a model object: give the same one again")
    settings = directory.section("search", SearchSettings)
    for name, given in (("n_trials", n_trials), ("timeout_s", timeout_s)):
        if given is not None:  # refused now rather than when everything is loaded
            dataclasses.replace(settings, **{name: given})  # type: ignore[arg-type]
    known("engine", (workers or Workers()).engine, ENGINES)
    check_storage(storage or settings.storage)
    check_sampler(
        settings.sampler if sampler is None else sampler, objectives=len(settings.objectives)
    )
    check_hand_over(directory.path)
    reuse_large_blocks()
    if device is not None:
        question = dataclasses.replace(question, device=None if device == "none" else device)
    address = workers.ray_address if workers else None
    measurer = ready_device(question.device, ray_address=address)
    _say(on_event, 0.0, f"loading {question.backbone} and {question.data}")
    folder = Path(run)
    session = build_problem(
        question,
        model,
        seed=settings.seed,
        weights=folder / WEIGHTS_FOLDER,
        finetunes=settings.retrain_trials,
    )
    _say(on_event, 0.0, session.evaluator.data.labelling)
    watch.loaded()
    _warn_of_plug_in_only(session, settings)
    with _engine(workers, session, model, settings, folder) as engine, leaving(measurer):
        result = resume_search(
            measuring_on(measurer, session),
            run,
            _hearing_fine_tunes(session, on_event),
            n_trials=n_trials,
            timeout_s=timeout_s,
            storage=storage,
            sampler=sampler,
            sections=None if device is None else {"question": question.to_dict()},
            engine=engine,
            around=watch.around(settings.timeout_s if timeout_s is None else timeout_s),
        )
    return _finish(session, result, watch, on_event)


@contextlib.contextmanager
def _engine(
    workers: Workers | None,
    session: Session,
    model: nn.Module | None,
    settings: SearchSettings,
    folder: Path,
) -> Iterator[Engine | None]:
    """The engine, closed whatever happens; None is this process."""
    workers = workers or Workers()
    alone = workers == Workers(workers.count if workers.count == 1 else None)
    if alone and settings.trial_timeout_s is None:
        yield None
        return
    from autotok.searching.running.engine_choice import ProblemFactory, make_engine
    from autotok.searching.running.sharing import SHARED_FOLDER, share

    question, engine = session.question.to_dict(), None
    shared = share(session, folder / SHARED_FOLDER)
    try:
        engine = make_engine(
            workers.engine,
            workers=workers.count,
            ray_address=workers.ray_address,
            resources=workers.resources,
            factory=ProblemFactory.of(question, model, settings.seed, folder, shared=shared),
            directory=folder,
            trial_timeout_s=settings.trial_timeout_s,
        )
        yield engine
    finally:
        if engine is not None:
            engine.close()
        shutil.rmtree(shared, ignore_errors=True)


def _warn_of_plug_in_only(session: Session, settings: SearchSettings) -> None:
    """Say so where retraining was wanted and there is nothing to train on."""
    reason = session.plug_in_only
    if reason is not None and (settings.retrain_trials != 0 or "left out" in reason):
        _LOG.warning("nothing will be retrained: %s", session.plug_in_only)


def _say(on_event: OnEvent | None, progress: float, text: str) -> None:
    if on_event is not None:
        on_event(Working(progress, text))


def _hearing_fine_tunes(session: Session, on_event: OnEvent | None) -> OnEvent | None:
    """The listener, told of the steps of this process's own fine-tunes as well."""
    if on_event is None:
        return None
    last = 0.0

    def listen(event: Event) -> None:
        nonlocal last
        last = event.progress
        on_event(event)

    session.worker.on_finetune = lambda at: on_event(FineTuneStep(last, finetune_line(at)))
    return listen


def _finish(
    session: Session, result: SearchResult, watch: Stopwatch, on_event: OnEvent | None
) -> Run:
    no_export = watch.why_no_export(result.settings.timeout_s, result.seconds)
    export = f"not exporting ({no_export})" if no_export else "exporting the best"
    _say(on_event, 1.0, f"{export}, drawing the front, writing the report")
    with RunDirectory(result.directory).guarded():
        hand_over(
            session.question.to_dict(),
            session.backbone,
            session.evaluator,
            result,
            compressed=session.worker.compressed,
            plug_in_only=session.plug_in_only,
            no_export=no_export,
        )
    return Run(result.directory)
