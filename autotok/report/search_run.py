"""One search from loading to hand-over, new or resumed."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autotok.devices.device import leaving, ready_device
from autotok.devices.placing import gpus_to_share, torch_device
from autotok.errors import ConfigError
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import told_of
from autotok.evaluation.own_quality import OwnQuality
from autotok.searching.engines.base import Engine, Workers
from autotok.searching.proposing.earlier import without_device, worth_keeping
from autotok.searching.proposing.samplers import check_sampler
from autotok.searching.proposing.storage import check_storage
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.events import Event, FineTuneStep, OnEvent, Working
from autotok.searching.running.model_worker import WEIGHTS_FOLDER
from autotok.searching.running.opening import kept_trials, resume_search, run_search
from autotok.searching.running.question import Question, check_hand_over
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.session import Session, measuring_on
from autotok.searching.running.several import build_session
from autotok.searching.running.stopwatch import Stopwatch
from autotok.searching.running.time_limit import Around
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings

from .finetune_run import finetune_line
from .handover import hand_over
from .run import Run

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ready:
    """All that a study needs."""

    directory: RunDirectory
    session: Session
    problem: Problem
    engine: Engine | None
    told: OnEvent | None
    around: Around


@dataclass(frozen=True)
class WholeSearch:
    """What surrounds a study: checks, model and data, workers, the device, the hand-over."""

    question: Question
    settings: SearchSettings
    folder: Path
    watch: Stopwatch
    model: nn.Module | None = None
    """Where the backbone is no name."""
    workers: Workers = field(default_factory=Workers)
    on_event: OnEvent | None = None
    warm_start: tuple[Path, ...] = ()
    """Earlier runs of the same model and images."""
    own: OwnQuality | None = None
    """The question's evaluator, where it is at hand."""

    def begin(self) -> Run:
        """A new run, its folder made once everything is loaded."""
        earlier = [r for path in self.warm_start for r in self._trials_of(path)]
        with self._ready(new=True) as ready:
            objectives = make_objectives(self.settings.objectives, ready.problem.metric)
            question = ready.session.question.to_dict()
            started = [str(path.absolute()) for path in self.warm_start]
            result = run_search(
                self.settings,
                ready.problem,
                ready.directory,
                ready.told,
                sections={
                    "question": question,
                    "embedded_model": self.model is not None,
                    **({"warm_start": started} if started else {}),
                },
                engine=ready.engine,
                around=ready.around,
                earlier=worth_keeping(earlier, objectives, ready.problem),
            )
        return self._handed_over(ready.session, result)

    def _trials_of(self, path: Path) -> list[TrialRecord]:
        """What an earlier run evaluated; refused where that was another model or other images."""
        run = RunDirectory.open(path)
        theirs, ours = run.section("question", Question), self.question
        for name in (
            "backbone",
            "backbones",
            "checkpoint",
            "image_size",
            "data",
            "class_names",
            "subnet",
            "evaluator",
        ):
            one, other = getattr(theirs, name), getattr(ours, name)
            if one != other:
                raise ConfigError(
                    f"run '{path}' searched {name.replace('_', ' ')} {one}, and this search is of"
                    f" {other}; warm-start from a run of the same model and images"
                )
        records = kept_trials(run)
        device = ("target", "batch", "measure_on")
        same = all(getattr(theirs, name) == getattr(ours, name) for name in device)
        return records if same else without_device(records)

    def resume(self, changes: Mapping[str, Any]) -> Run:
        """The run gone on with, under the `changes` of its settings (`resume_search`)."""
        question = {"question": self.question.to_dict()}
        with self._ready(new=False) as ready:
            result = resume_search(
                ready.problem,
                self.folder,
                ready.told,
                **changes,
                sections=question,
                engine=ready.engine,
                around=ready.around,
            )
        return self._handed_over(ready.session, result)

    @contextlib.contextmanager
    def _ready(self, *, new: bool) -> Iterator[_Ready]:
        torch_device(self.question.device)  # which is here, or nothing need be loaded
        if not self._alone:
            from autotok.searching.running.engine_choice import check_workers

            check_workers(self.workers, self.settings.trial_timeout_s)
        check_storage(self.settings.storage)
        check_sampler(self.settings.sampler, objectives=len(self.settings.objectives))
        check_hand_over(self.folder)
        if self.own is not None and not self._alone:
            OwnQuality.of(self.own.name)  # other processes find it again
        reuse_large_blocks()
        address = self.workers.ray_address
        measurer = ready_device(self.question.measure_on, ray_address=address)
        session = self._loaded()
        directory = RunDirectory.create(self.folder) if new else RunDirectory.open(self.folder)
        with self._engine(session) as engine, leaving(measurer):
            yield _Ready(
                directory,
                session,
                measuring_on(measurer, session),
                engine,
                self._hearing_fine_tunes(session),
                self.watch.around(self.settings.timeout_s),
            )

    def _loaded(self) -> Session:
        self._say(0.0, f"loading {self.question.named} and {self.question.data}")
        session = build_session(
            self.question,
            self.model,
            seed=self.settings.seed,
            weights=self.folder / WEIGHTS_FOLDER,
            finetunes=self.settings.retrain_trials,
            own=self.own,
        )
        told = told_of(session.evaluator.data, session.evaluator.backbone)
        for words in (*told, session.question.judged_in):
            self._say(0.0, words)
        self.watch.loaded()
        reason = session.plug_in_only
        if reason is not None and (self.settings.retrain_trials != 0 or "left out" in reason):
            _LOG.warning("nothing will be retrained: %s", reason)
        return session

    @property
    def _alone(self) -> bool:
        """Whether this process does it all."""
        count = self.workers.count
        here = self.workers == Workers(count if count == 1 else None)
        return here and self.settings.trial_timeout_s is None

    @contextlib.contextmanager
    def _engine(self, session: Session) -> Iterator[Engine | None]:
        """The engine, closed whatever happens; None is this process."""
        workers, settings = self.workers, self.settings
        if self._alone:
            yield None
            return
        from autotok.searching.running.engine_choice import (
            SHARED_FOLDER,
            ProblemFactory,
            make_engine,
            share,
        )

        question, engine = session.question.to_dict(), None
        shared = share(session, self.folder / SHARED_FOLDER)
        factory = ProblemFactory.of(question, self.model, settings.seed, self.folder, shared=shared)
        try:
            engine = make_engine(
                workers,
                factory=factory,
                directory=self.folder,
                trial_timeout_s=settings.trial_timeout_s,
                gpus=gpus_to_share(session.question.device),
            )
            yield engine
        finally:
            if engine is not None:
                engine.close()
            shutil.rmtree(shared.folder, ignore_errors=True)

    def _say(self, progress: float, text: str) -> None:
        if self.on_event is not None:
            self.on_event(Working(progress, text))

    def _hearing_fine_tunes(self, session: Session) -> OnEvent | None:
        """The listener, told of the steps of this process's own fine-tunes as well."""
        if self.on_event is None:
            return None
        tell, last = self.on_event, 0.0

        def listen(event: Event) -> None:
            nonlocal last
            last = event.progress
            tell(event)

        for one in session.each:
            one.worker.on_finetune = lambda at: tell(FineTuneStep(last, finetune_line(at)))
        return listen

    def _handed_over(self, session: Session, result: SearchResult) -> Run:
        limit, folder = result.settings.timeout_s, Path(result.directory)
        no_export = self.watch.why_no_export(limit, result.seconds, folder)
        export = f"not exporting ({no_export})" if no_export else "exporting the best"
        self._say(1.0, f"{export}, drawing the front, writing the report")
        for one in session.each:
            one.worker.bring_home()
        question, plug_in_only = session.question.to_dict(), session.plug_in_only
        if result.best is not None:
            session = session.of(result.best.backbone)
        with RunDirectory(result.directory).guarded():
            hand_over(
                question,
                session.backbone,
                session.evaluator,
                result,
                compressed=session.worker.compressed,
                calibration=session.worker.calibration_images,
                plug_in_only=plug_in_only,
                no_export=no_export,
            )
        return Run(result.directory)
