"""`SecondCount`: the independent counter's figure for what comes to the final evaluation."""

from __future__ import annotations

import dataclasses
import logging

from autotok.searching.records.record import TrialRecord

from .controls import expected_count
from .loop import Search

_LOG = logging.getLogger(__name__)


class SecondCount:
    """Counts every configuration once."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._counted: dict[str, float] = {}

    def verified(self, record: TrialRecord) -> TrialRecord:
        """The record with the independent counter's figure; beyond the budget it is infeasible.

        Where images cost different amounts, that counter runs some of them: how far it is from
        what was counted on the same images is taken for all.
        """
        problem, record = self._search.problem, self._search.corrections.known(record)
        assert record.config is not None
        assert record.costs is not None
        if problem.count is None:
            return dataclasses.replace(record, within_budget=record.violation <= 0.0)
        key = record.config.config_id
        if key not in self._counted:
            self._counted[key] = float(problem.count(record.config))
        counted, expected = self._counted[key], expected_count(record)
        limits = [b.limit for b in problem.budgets if b.metric == "macs"]
        macs = record.costs.macs * counted / expected
        holds = record.violation <= 0.0 and all(macs <= limit for limit in limits)
        if counted != expected:
            _LOG.warning(
                "trial %d: the independent counter finds %.0f MACs, the formula %.0f",
                *(record.number, counted, expected),
            )
        return dataclasses.replace(
            record, macs_counted=round(macs), within_budget=holds, feasible=holds
        )
