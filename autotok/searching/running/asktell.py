"""Ask and tell: the search with one's own evaluation function, data and loop."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autotok.backbones.loading import as_backbone
from autotok.compression.compress import compress_backbone, with_networks
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.metrics import METRICS, ON_DEVICE, QUALITIES
from autotok.names import known
from autotok.searching.proposing.feasible import check_budgets, idle_budgets, within_sizes
from autotok.searching.proposing.identity import STUDY_NAME
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import parse_budgets
from autotok.searching.space.problem import Problem, budgets_of
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.space_file import load_space

from .opening import open_search

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A configuration to judge, inside the budget by its exact cost; by its nominal counts where a
    method's token counts depend on the image."""

    number: int
    config: CompressionConfig
    macs_g: float


@dataclass(frozen=True)
class _Told:
    """One number as a tally: what the search wants from an evaluation."""

    metric: str
    value: float
    low: float
    high: float
    num_images: int

    def __add__(self, other: Any, /) -> _Told:
        return other  # type: ignore[no-any-return]

    def quality(self) -> _Told:
        return self


class AskTell:
    """Proposes configurations of a model within a budget; you judge them.

    Args:
        model: A timm ViT, or any `Backbone`.
        budget: One or more of '2.3GFLOPs', '50%', '12Mparams' (latency needs `autotok.search`).
        metric: What you will tell: 'top1' or 'agreement' (higher is better) or 'kl' (lower).
        space: Search space name or YAML file.
        seed: Same seed and same answers, same proposals.
        storage: Optuna storage URL or journal file; a temporary file by default.
        study: Name of the study there.
        join: Go on with a study that is there already, as a script does that was stopped.

    Raises:
        ConfigError: a budget needs to know the device.
        InfeasibleBudget: nothing in the space meets it.
        StudyTaken: the study is there already, is about something else, or is in use.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        budget: str | Sequence[str],
        metric: str = "top1",
        space: str = "default",
        seed: int = 0,
        storage: str | Path | None = None,
        study: str | None = None,
        join: bool = False,
    ) -> None:
        self._backbone = as_backbone(model)
        facts = self._backbone.facts
        known("metric", metric, QUALITIES[1:])
        requests = parse_budgets(budget)
        on_device = [METRICS[r.metric].label for r in requests if r.metric in ON_DEVICE]
        if on_device:
            raise ConfigError(
                f"{on_device[0]} needs to know the device, and ask and tell knows exact costs only;"
                " give FLOPs, a share of them or parameters, or use autotok.search with a target"
            )
        problem = Problem(
            facts=facts,
            space=load_space(space),
            budgets=budgets_of(requests, facts),
            evaluate=_nobody,
            total_images=1,
            metric=metric,
        )
        check_budgets(problem)
        self._problem = within_sizes(problem)
        for sentence in idle_budgets(self._problem):
            _LOG.warning("%s", sentence)
        if storage is None:
            folder = tempfile.mkdtemp(prefix="autotok-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            storage = Path(folder) / "study.log"
        settings = SearchSettings(
            seed=seed, storage=str(storage), study=study or STUDY_NAME, join=join
        )
        self._search = open_search(settings, self._problem, storage, plan=FidelityPlan(1, 1, 1))
        self._asked: set[int] = set()
        """Trials without an answer."""

    def ask(self) -> Candidate | None:
        """The next configuration, never one that was asked before; None when there is no other."""
        found = self._search.ask()
        if found is None:
            return None
        self._asked.add(found.number)
        macs_g = self._problem.costs.cost(found.config).macs / 1e9
        return Candidate(found.number, found.config, macs_g)

    def compress(self, candidate: Candidate) -> CompressedViT:
        """The candidate as a model, holding the backbone."""
        return with_networks(compress_backbone(self._backbone, candidate.config))

    def tell(
        self,
        candidate: Candidate,
        quality: float,
        *,
        interval: tuple[float, float] | None = None,
        num_images: int = 1,
    ) -> None:
        """Answer one candidate with its quality (of 'top1' and 'agreement' in percent, 0 to 100),
        and a 95 % interval if you have one.

        Raises:
            ConfigError: the quality is outside of that, or the candidate is not to be answered.
        """
        low, high = interval or (quality, quality)
        metric = METRICS[self._problem.metric]
        if metric.unit == "%" and not 0.0 <= quality <= 100.0:
            raise ConfigError(f"{metric.label} of {quality:g} is told; it is in percent, 0 to 100")
        self._answered(candidate)
        told = _Told(self._problem.metric, quality, low, high, num_images)
        self._search.advance(candidate.number, told, 0.0)

    def fail(self, candidate: Candidate, reason: str) -> None:
        """Say that a candidate could not be judged; the search goes on.

        Raises:
            ConfigError: the candidate is not to be answered.
        """
        self._answered(candidate)
        self._search.fail(candidate.number, reason, 0.0)

    def _answered(self, candidate: Candidate) -> None:
        if candidate.number not in self._asked:
            raise ConfigError(
                f"candidate {candidate.number} waits for no answer: each that `ask` gave is told or"
                " failed once"
            )
        self._asked.remove(candidate.number)

    def front(self) -> list[TrialRecord]:
        """Non-dominated candidates so far, cheapest first."""
        return self._search.front()


def _nobody(config: CompressionConfig, start: int, stop: int) -> _Told:
    raise AssertionError("ask and tell evaluates nothing itself")
