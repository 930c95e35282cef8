"""Engines by name, what builds a search problem in their workers, and what these share.

Workers of one run share decoded images and weights, instead of loading their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autotok.config import CompressionConfig
from autotok.devices.handed_model import put_together, take_apart
from autotok.errors import ConfigError, failure
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import DataSource
from autotok.evaluation.folder import PixelCache
from autotok.evaluation.shared_tensors import SharedTensors
from autotok.names import ENGINES, known
from autotok.searching.engines.base import Engine, WorkerFactory, Workers
from autotok.searching.engines.pickling import dumped
from autotok.searching.space.problem import Problem

from .model_worker import WEIGHTS_FOLDER
from .question import Question
from .session import Loaded, Session
from .several import build_session

_LOG = logging.getLogger(__name__)
_WARM_UP = 2
"""Images."""
SHARED_FOLDER = "shared"
"""Inside the run directory, while workers run."""
IMAGES, OUTPUTS = "images", "outputs"


@dataclass(frozen=True)
class Shared:
    """What the processes of a run share: decoded images, and weights that all of them map."""

    folder: Path
    rest: bytes | None
    """Of backbone and supernet, without their weights; None: each worker loads its own."""

    @property
    def weights(self) -> Path:
        """The file with the weights; no pickle, see `take_apart`."""
        return self.folder / "weights.safetensors"

    def load(self) -> Loaded | None:
        """Backbone and supernet."""
        if self.rest is None:
            return None
        loaded: Loaded = put_together(self.rest, self.weights)
        return loaded

    def open_for(self, evaluator: Evaluator) -> None:
        """Read decoded images and the uncompressed model's outputs here, and leave new ones."""
        cache = _cache(evaluator.data)
        if cache is not None:
            cache.shared = self._opened(IMAGES)
        evaluator.answers.shared = self._opened(OUTPUTS)

    def _opened(self, name: str) -> SharedTensors | None:
        with contextlib.suppress(FileNotFoundError):
            return SharedTensors.open(self.folder / name)
        return None


@dataclass(frozen=True)
class ProblemFactory:
    """Builds the problem of a question in the process that calls it; pickles."""

    question: Mapping[str, Any]
    """`Question.to_dict()`."""
    model: bytes | None
    """The pickled model that replaces the named backbone; None where it is shared."""
    seed: int
    directory: Path
    """Run directory: where fine-tunes keep their weights and checkpoints."""
    shared: Shared | None = None
    """What the driver shares with its workers."""

    @classmethod
    def of(
        cls,
        question: Mapping[str, Any],
        model: nn.Module | None,
        seed: int,
        directory: Path,
        *,
        shared: Shared | None = None,
    ) -> ProblemFactory:
        """A factory for a question, and for a model object if one is given.

        Raises:
            ConfigError: the model does not pickle.
        """
        here = shared is not None and shared.rest is not None
        content = None if model is None or here else dumped(model, "model object")
        return cls(dict(question), content, seed, Path(directory).absolute(), shared)

    def __call__(self) -> Problem:
        """The problem, loaded here or shared, and warm: its first trial is as fast as the next."""
        reuse_large_blocks()
        loaded = None if self.shared is None else self.shared.load()
        model = None if self.model is None else pickle.loads(self.model)
        question = Question.from_dict(self.question)
        weights = self.directory / WEIGHTS_FOLDER
        session = build_session(question, model, seed=self.seed, weights=weights, loaded=loaded)
        if self.shared is not None:
            self.shared.open_for(session.evaluator)
        with contextlib.suppress(Exception):  # if it fails, the trials say so
            for name in session.problem.space.names():
                session.problem.evaluate(CompressionConfig(backbone=name), 0, _WARM_UP)
        return session.problem


def check_workers(workers: Workers, trial_timeout_s: float | None) -> None:
    """Raise `UsageError` for a combination that no engine can be made of; see `make_engine`."""
    known("engine", workers.engine, ENGINES)
    if workers.count is not None and workers.count < 1:
        raise ConfigError(f"--workers is {workers.count}; it must be at least 1")
    for key, need in workers.resources.items():
        if not need > 0:
            raise ConfigError(f"a trial takes {need:g} of resource '{key}'; it must be positive")
    if workers.engine == "ray":
        if trial_timeout_s is not None:
            raise ConfigError(
                "--trial-timeout works with --engine local; this search has --engine ray"
            )
    elif workers.ray_address is not None or workers.resources:
        what = "--ray-address" if workers.ray_address is not None else "resources per trial"
        raise ConfigError(f"{what} needs --engine ray; this search has --engine local")


def make_engine(
    workers: Workers,
    *,
    factory: WorkerFactory,
    directory: str | Path,
    trial_timeout_s: float | None = None,
    gpus: Sequence[str] = (),
) -> Engine | None:
    """The engine of these workers; None where the search runs in this process.

    Args:
        workers: How many, and by which engine.
        factory: Builds the problem in each worker.
        directory: Run directory.
        trial_timeout_s: Stops an evaluation that takes longer; see `SearchSettings`. It takes a
            process of its own to stop one.
        gpus: Of this machine, for local workers to take turns at; Ray gives its own.

    Raises:
        UsageError: a combination that cannot be; the message says which.
        DeviceUnreachable: no Ray cluster answers at the address.
    """
    check_workers(workers, trial_timeout_s)
    if workers.engine == "local":
        if workers.count in (None, 1) and trial_timeout_s is None:
            return None
        from autotok.searching.engines.workers import ProcessEngine

        return ProcessEngine(factory, workers.count or 1, timeout_s=trial_timeout_s, gpus=gpus)
    from autotok.searching.engines.ray import RayEngine

    return RayEngine(
        factory,
        workers=workers.count,
        address=workers.ray_address,
        resources=workers.resources,
        storage=Path(directory),
    )


def share(session: Session, folder: Path) -> Shared:
    """What the folder, made anew, holds then: the session's weights and room for its images and
    the uncompressed model's outputs.

    A model that does not pickle is left out, and so are several: each worker loads its own then, as
    it is named.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shared, loaded = Shared(folder.absolute(), None), (session.backbone, session.worker.supernet)
    if session.several:
        return shared
    try:
        shared = dataclasses.replace(shared, rest=take_apart(loaded, shared.weights))
    except Exception as error:  # pickling runs arbitrary code
        _LOG.info("each worker loads its own model: %s", failure(error))
    data = session.evaluator.data
    cache = _cache(data)
    if cache is not None:
        index = data.subset(1, session.evaluator.seed)[0]
        first = cache.get(index)
        if first is not None:
            cache.shared = SharedTensors.create(folder / IMAGES, 2 * len(data) + index, first)
    answers = session.evaluator.answers
    if session.evaluator.metric != "knn_top1":  # which compares with labels alone
        first = session.evaluator.reference_output(0)
        answers.shared = SharedTensors.create(folder / OUTPUTS, len(data), first)
    return shared


def _cache(data: DataSource) -> PixelCache | None:
    cache = getattr(data, "_cache", None)
    return cache if isinstance(cache, PixelCache) else None
