"""Searches: build the problem, run or resume the study, and hand over what it found."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autotok.backbones.base import Backbone
from autotok.backbones.loading import as_backbone, check_name, load_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, checked_keys
from autotok.errors import ConfigError, RunDirectoryError
from autotok.evaluation.accuracy import Evaluator, Tally
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import load_data
from autotok.profiling.counter import count_macs
from autotok.profiling.macs import uncompressed
from autotok.profiling.predict import predict
from autotok.profiling.target import Target, load_target
from autotok.profiling.trace import trace
from autotok.searching.budget import Budget, parse_budgets, resolve
from autotok.searching.events import OnEvent, Working
from autotok.searching.problem import ExactCosts, Problem
from autotok.searching.record import TrialRecord
from autotok.searching.rundir import RunDirectory
from autotok.searching.settings import SearchSettings
from autotok.searching.space_file import load_space
from autotok.searching.study import SearchResult, resume_search, run_search

from .handover import hand_over

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Question", "Run", "build_problem", "fresh_run_folder", "resume", "search"]

DEFAULT_TRIALS = 32
DEFAULT_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Question:
    """What a search is asked, as plain data; config.yaml keeps it so that a run can be resumed."""

    backbone: str = "autoformer_demo"
    checkpoint: str | None = None
    image_size: int | None = None
    data: str = "demo"
    budgets: tuple[str, ...] = ("2.3GFLOPs",)
    flops_convention: str = "macs"
    target: str | None = None
    space: str = "default"
    quality: str = "auto"
    max_images: int | None = None
    """At most this many images of the data count as its validation split."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "budgets": list(self.budgets)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Question:
        """The inverse of `to_dict`."""
        values = checked_keys(data, cls, "config.yaml: question")
        values["budgets"] = tuple(values.get("budgets", ()))
        return cls(**values)


@dataclass(frozen=True)
class Session:
    """A question with its model and data loaded."""

    question: Question
    backbone: Backbone
    evaluator: Evaluator
    target: Target | None
    problem: Problem


def build_problem(question: Question, model: nn.Module | None = None, *, seed: int = 0) -> Session:
    """Load what a question names; `model` replaces the named backbone."""
    space = load_space(question.space)
    requests = parse_budgets(question.budgets, convention=question.flops_convention)
    target = None if question.target is None else load_target(question.target)
    if model is not None:
        backbone = as_backbone(model)
    else:
        checkpoint = None if question.checkpoint is None else Path(question.checkpoint)
        backbone = load_backbone(
            question.backbone, checkpoint=checkpoint, image_size=question.image_size
        )
    needs_target = any(r.metric in ("latency_ms", "peak_memory_mb") for r in requests)
    if needs_target and target is None:
        raise ConfigError("a latency or memory budget needs to know the device: give --target")
    foretell = None if target is None else _Foreteller(backbone, target)
    budgets = _budgets(question, backbone, foretell)
    evaluator = Evaluator(
        backbone, load_data(question.data, backbone), metric=question.quality, seed=seed
    )
    total = min(evaluator.num_images, question.max_images or evaluator.num_images)
    problem = Problem(
        facts=backbone.facts,
        space=space,
        budgets=budgets,
        costs=ExactCosts(backbone.facts),
        evaluate=lambda config, start, stop: evaluator.evaluate(
            compress_backbone(backbone, config), start, stop
        ),
        total_images=total,
        metric=evaluator.metric,
        predict=foretell,
        load_tally=lambda data: Tally(**data),
        count=lambda config: count_macs(compress_backbone(backbone, config)),
    )
    return Session(question, backbone, evaluator, target, problem)


class _Foreteller:
    """Predicted latency and memory of a configuration on a target, remembered."""

    def __init__(self, backbone: Backbone, target: Target) -> None:
        self._backbone, self._target = backbone, target
        self._known: dict[str, Mapping[str, float]] = {}

    def __call__(self, config: CompressionConfig) -> Mapping[str, float]:
        key = config.config_id
        if key not in self._known:
            found = predict(
                trace(
                    compress_backbone(self._backbone, config),
                    batch=self._target.default_batch,
                    dtype=getattr(torch, self._target.default_dtype),
                    fused_attention=self._target.setting().fused_attention,
                ),
                self._target,
            )
            self._known[key] = {
                "latency_ms": found.latency_ms,
                "peak_memory_mb": found.peak_memory_mb,
            }
        return self._known[key]


def _budgets(
    question: Question, backbone: Backbone, foretell: _Foreteller | None
) -> tuple[Budget, ...]:
    plain = uncompressed(backbone.facts)
    known: dict[str, float] = {
        "macs": plain.macs,
        "macs_noattn": plain.macs_noattn,
        "params": plain.params,
    }
    if foretell is not None:
        known |= foretell(CompressionConfig())
    requests = parse_budgets(question.budgets, convention=question.flops_convention)
    return tuple(resolve(request, known) for request in requests)


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
        """The last word: `best`, `random_control`, `reference`, `front`, `controls`, `budgets`."""
        import json

        data = json.loads((self._finished() / "pareto.json").read_text("utf-8"))
        found: dict[str, Any] = {
            key: None if data[key] is None else TrialRecord.from_dict(data[key])
            for key in ("best", "random_control", "reference")
        }
        for key in ("front", "controls"):
            found[key] = [TrialRecord.from_dict(item) for item in data[key]]
        found["budgets"] = [Budget(**item) for item in data["budgets"]]
        return found

    def best(self) -> TrialRecord:
        """The recommended configuration with its evidence."""
        record = self.records()["best"]
        if record is None:
            raise RunDirectoryError(f"run '{self.directory}' found nothing inside its budget")
        assert isinstance(record, TrialRecord)
        return record

    def load_best(self, model: nn.Module | None = None) -> CompressedViT:
        """The recommended model, rebuilt; `model` replaces the backbone that the run names."""
        question = Question.from_dict(self.config["question"])
        if model is None:
            checkpoint = None if question.checkpoint is None else Path(question.checkpoint)
            model = load_backbone(
                question.backbone, checkpoint=checkpoint, image_size=question.image_size
            )
        config = self.best().config
        assert config is not None
        return compress_backbone(as_backbone(model), config)

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
        return pd.read_csv(self.directory / name)


def fresh_run_folder(backbone: str) -> Path:
    """A new folder name under runs/, such as runs/autoformer_demo-20260131-120000."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in backbone.split(".")[0])
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


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
    max_images: int | None = None,
    settings: SearchSettings | None = None,
    output: str | Path | None = None,
    on_event: OnEvent | None = None,
) -> Run:
    """Search for the best ways to compress a backbone within a budget; returns the finished run.

    Args:
        backbone: A name (see `autotok backbones`), or a model (then `resume` needs it again).
        data: 'demo', 'digits', 'cifar10' or an image folder; 'demo' by default for the demo.
        budget: One or more of '2.3GFLOPs', '50%', '26ms', '600MB', '12Mparams'.
        target: Device name or YAML file; needed by latency and memory budgets.
        checkpoint: Weight file of the backbone.
        image_size: Input side in pixels, timm models only.
        space: Search space name or YAML file.
        quality: 'auto', 'top1', 'agreement' or 'kl'.
        flops_convention: What FLOPs in a budget mean: 'macs', 'macs-noattn' or 'flops2x'.
        max_images: At most this many images count as the validation split.
        settings: Search effort; 32 configurations and 4 minutes by default.
        output: Run directory, new; under runs/ by default.
        on_event: Called with progress.

    Raises:
        UsageError: a name, value or file that cannot be; the message says which.
        InfeasibleBudget: nothing in the space meets the budget.
    """
    named = backbone if isinstance(backbone, str) else as_backbone(backbone).facts.name
    if isinstance(backbone, str):
        check_name(backbone)
    if data is None:
        if named != "autoformer_demo":
            raise ConfigError(
                f"backbone '{named}' needs images to be judged on: give --data FOLDER"
            )
        data = "demo"
    question = Question(
        backbone=named,
        checkpoint=None if checkpoint is None else str(Path(checkpoint).absolute()),
        image_size=image_size,
        data=data if not Path(data).is_dir() else str(Path(data).absolute()),
        budgets=(budget,) if isinstance(budget, str) else tuple(budget),
        flops_convention=flops_convention,
        target=target,
        space=space,
        quality=quality,
        max_images=max_images,
    )
    settings = settings or SearchSettings(n_trials=DEFAULT_TRIALS, timeout_s=DEFAULT_TIMEOUT_S)
    model = None if isinstance(backbone, str) else backbone
    reuse_large_blocks()
    _say(on_event, 0.0, f"loading {named} and {question.data}")
    session = build_problem(question, model, seed=settings.seed)
    directory = RunDirectory.create(output or fresh_run_folder(named))
    result = run_search(
        settings,
        session.problem,
        directory,
        on_event,
        sections={"question": question.to_dict(), "embedded_model": model is not None},
    )
    return _finish(session, result, on_event)


def resume(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    n_trials: int | None = None,
    timeout_s: float | None = None,
    on_event: OnEvent | None = None,
) -> Run:
    """Go on with an interrupted run, or extend a finished one; returns the finished run.

    Finished trials stay, those that were in flight run again. `model` is needed where the run was
    started with one.
    """
    config = RunDirectory.open(run).read_config()
    question = Question.from_dict(config.get("question") or {})
    if config.get("embedded_model") and model is None:
        raise ConfigError(f"run '{run}' was started with a model object: give the same one again")
    settings = SearchSettings.from_dict(config.get("search") or {})
    reuse_large_blocks()
    _say(on_event, 0.0, f"loading {question.backbone} and {question.data}")
    session = build_problem(question, model, seed=settings.seed)
    result = resume_search(session.problem, run, on_event, n_trials=n_trials, timeout_s=timeout_s)
    return _finish(session, result, on_event)


def _say(on_event: OnEvent | None, progress: float, text: str) -> None:
    if on_event is not None:
        on_event(Working(progress, text))


def _finish(session: Session, result: SearchResult, on_event: OnEvent | None) -> Run:
    _say(on_event, 1.0, "exporting the best, drawing the front, writing the report")
    hand_over(
        session.question.to_dict(),
        session.backbone,
        session.evaluator,
        session.problem.budgets,
        result,
    )
    return Run(result.directory)
