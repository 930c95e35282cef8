"""`TrialBuilder`: proposals made into records, ready to be evaluated: decode, repair, retrain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

from autotok.compression.calibrate import unsettled
from autotok.config import MODES, CompressionConfig, Primitive
from autotok.errors import AutotokError
from autotok.methods.learning import options_when_chosen
from autotok.methods.registry import get_method
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import worst_excess
from autotok.searching.space.finetuning import auto_steps
from autotok.searching.space.problem import Problem
from autotok.searching.space.search_space import Params
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.warm_starts import warm_starts

from .proposals import Proposals
from .repair import Repaired, repair

__all__ = ["TrialBuilder"]

_ATTEMPTS = 6


class TrialBuilder:
    """Drafts trials from proposals; knows every configuration that was drafted before."""

    def __init__(self, settings: SearchSettings, problem: Problem, proposals: Proposals) -> None:
        self._settings, self._problem, self._proposals = settings, problem, proposals
        self.known: dict[str, TrialRecord] = {}
        """Trials by the id of their configuration."""
        self._starts = self._warm_starts()

    @property
    def promotes(self) -> bool:
        """Whether both modes are searched: plug-in first, fine-tunes where they promise most."""
        return set(self._problem.space.mode) == set(MODES)

    def proposal(self, number: int, plan: FidelityPlan) -> TrialRecord:
        """What the sampler, or a published default, proposes as trial `number`."""
        fixed: Mapping[str, Primitive] | None = None
        origin = "sampler"
        if number < len(self._starts):
            origin, fixed = "warm-start", self._starts[number]
            if fixed is None:
                return self._record(number, {}, self.uncompressed(), origin)
        record = None
        for attempt in range(_ATTEMPTS):
            record = self._attempt(number, attempt, fixed if attempt == 0 else None, origin, plan)
            if record.state != "duplicate":
                break
            origin = "sampler"
        assert record is not None
        return record

    def _attempt(
        self,
        number: int,
        attempt: int,
        fixed: Mapping[str, Primitive] | None,
        origin: str,
        plan: FidelityPlan,
    ) -> TrialRecord:
        if self.promotes:
            fixed = {**(fixed or {}), "mode": "plug-in"}
        params = self._proposals.propose(number, attempt=attempt, fixed=fixed)
        try:
            shape = self._problem.space.decode(params, self._problem.facts)
            repaired = repair(shape, float(params["budget_fraction"]), self._problem)
        except AutotokError as error:
            return TrialRecord(
                number, "failed", None, params=params, origin=origin, reason=str(error)
            )
        if params["mode"] == "retrain":
            repaired = self._retrain(repaired, params, plan)
        return self._record(number, params, repaired, origin)

    def promotion(
        self, number: int, base: TrialRecord, plan: FidelityPlan, *, first: bool
    ) -> TrialRecord:
        """Trial `number`: an earlier one's configuration, retrained; how, the sampler proposes.

        The `first` of a run trains as the space's first answers say.
        """
        fixed: dict[str, Primitive] = {**base.params, "mode": "retrain"}
        if first:
            fixed.update(self._problem.space.finetune.first())
        params = self._proposals.propose(number, fixed=fixed)
        assert base.config is not None
        config = unsettled(base.config)
        costs = self._problem.costs.cost(config)
        repaired = Repaired(
            *(config, base.layers, base.counts, costs, base.predicted, base.violation)
        )
        if params["mode"] == "retrain":  # a condition of the space may forbid it
            repaired = self._retrain(repaired, params, plan)
        record = self._record(number, params, repaired, "promotion")
        return dataclasses.replace(record, base=base.number)

    def _retrain(self, repaired: Repaired, params: Params, plan: FidelityPlan) -> Repaired:
        """The same configuration, to be fine-tuned as the proposal says."""
        if repaired.config is None or repaired.costs is None or not repaired.layers:
            return repaired
        choices = self._problem.space.finetune
        share = choices.teacher_share(params, plan.finetunes)
        teacher_macs = share * self.uncompressed_macs
        steps = auto_steps(
            plan.finetune_macs, repaired.costs.macs, teacher_macs, choices.batch_size(params)
        )
        config = dataclasses.replace(
            repaired.config,
            mode="retrain",
            finetune=choices.spec(params, steps),
            options={**repaired.config.options, **_when_chosen(repaired.config)},
        )
        return dataclasses.replace(repaired, config=config)

    def _record(self, number: int, params: Params, repaired: Repaired, origin: str) -> TrialRecord:
        state, reason = "running", repaired.reason
        if repaired.config is None:
            state = "infeasible"
        known = None if repaired.config is None else self.known.get(repaired.config.config_id)
        if known is not None:
            state, reason = "duplicate", f"same configuration as trial {known.number}"
        return TrialRecord(
            number=number,
            state=state,
            config=repaired.config,
            layers=repaired.layers,
            counts=repaired.counts,
            costs=repaired.costs,
            predicted=repaired.predicted,
            feasible=repaired.feasible,
            violation=repaired.violation,
            params=params,
            origin=origin,
            seed=self._settings.seed,
            reason=reason,
            duplicate_of=None if known is None else known.number,
        )

    # --- the uncompressed model, and where to start

    def _warm_starts(self) -> list[Params | None]:
        """Proposals to begin with; None stands for the uncompressed model."""
        starts: list[Params | None] = [*warm_starts(self._problem.space, self._problem.facts)]
        uncompressed = self.uncompressed()
        return [None, *starts] if uncompressed.violation <= 0.0 else starts

    @cached_property
    def uncompressed_macs(self) -> int:
        """Of one image, at the default subnet."""
        return self._problem.costs.cost(CompressionConfig()).macs

    def uncompressed(self) -> Repaired:
        """The model as it is, with its violation of the budget if any."""
        config = CompressionConfig()
        costs = self._problem.costs.cost(config)
        predicted = dict(self._problem.predict(config)) if self._problem.predict else {}
        found = Repaired(config, costs=costs, predicted=predicted)
        over = worst_excess(self._problem.budgets, found.values)
        return dataclasses.replace(found, violation=over)


def _when_chosen(config: CompressionConfig) -> Mapping[str, Primitive]:
    return options_when_chosen(get_method(config.method))
