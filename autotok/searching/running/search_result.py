"""`SearchResult`: what a search hands over, and under which name its study keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotok.searching.records.final import Final
from autotok.searching.records.record import TrialRecord
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.space.budget import Budget
from autotok.searching.space.settings import FidelityPlan, SearchSettings


@dataclass(frozen=True)
class SearchResult:
    """A finished search."""

    directory: Path
    records: tuple[TrialRecord, ...]
    final: Final
    plan: FidelityPlan
    settings: SearchSettings
    stopped_by: str
    seconds: float
    measuring: Mapping[str, Any] = field(default_factory=dict)
    """What was measured on a device and how predictions compare, `DeviceCorrections.summary()`."""
    budgets: tuple[Budget, ...] = ()
    """The limits that held, as config.yaml and pareto.json state them."""
    workers: str = ""
    """How many workers were started and what that took, in words; '' without any."""
    no_finetune: str = ""
    """Why nothing was fine-tuned though it might have been, where it is the time."""

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """Non-dominated after the final evaluation, cheapest first."""
        return self.final.front

    @property
    def best(self) -> TrialRecord | None:
        """The recommended configuration."""
        return self.final.best

    @property
    def evaluated(self) -> int:
        """Different configurations evaluated."""
        return sum(r.evaluated for r in self.records)


def result_key(run: RunDirectory) -> str:
    """The study's note that holds what pareto.json does; several runs may share a study."""
    return f"result:{run.read_config().get('run_id')}"
