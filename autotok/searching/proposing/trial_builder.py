"""`TrialBuilder`: which trial comes next, as a record ready to be evaluated: decoded and repaired.

Where both modes are searched, trials are plugged in first; `promotions` says what is fine-tuned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial

from autotok.compression.calibrate import unsettled
from autotok.config import MODES, CompressionConfig, Primitive
from autotok.errors import AutotokError
from autotok.methods.learning import options_when_chosen
from autotok.methods.registry import get_method
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import worst_excess
from autotok.searching.space.finetuning import auto_steps, image_macs
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.warm_starts import warm_starts

from .earlier import front_again
from .proposals import Proposals
from .repair import Repaired, repair
from .surrogate import Known, Surrogate

_REPAIRS = 256
"""Proposals whose repair is remembered."""
_ATTEMPTS = 6
"""At a proposal that is not known yet; the late ones are random."""


class TrialBuilder:
    """Drafts trials from proposals; knows every configuration that was drafted before."""

    def __init__(self, settings: SearchSettings, problem: Problem, proposals: Proposals) -> None:
        self._settings, self._problem, self._proposals = settings, problem, proposals
        self.known: dict[str, TrialRecord] = {}
        """Trials by the id of their configuration."""
        noted = proposals.noted("earlier") or ()
        self._earlier = [TrialRecord.from_dict(data) for data in noted]
        self._objectives = make_objectives(settings.objectives, problem.metric)
        again = front_again(self._earlier, problem, self._objectives)
        wholes, published = self._warm_starts()
        self._starts: list[Params | None] = [*again, *wholes, *published]
        untaught = len(again) + len(wholes)
        self._surrogate = self._learner(untaught) if settings.sampler == "auto" else None
        # what promises most turns out to be a known configuration again and again; predictions
        # follow what was measured, and are asked anew
        kept = _REPAIRS if problem.predict is None else 0
        self._repaired = lru_cache(kept)(partial(_repaired, problem))

    @property
    def promotes(self) -> bool:
        """Whether both modes are searched: plug-in first, fine-tunes where they promise most."""
        return set(self._problem.space.mode) == set(MODES)

    def _learner(self, untaught: int) -> Surrogate:
        """What chooses proposals after those tried again and the uncompressed models."""
        starts = [p for p in self._starts if p is not None]
        self._starts = self._starts[:untaught]
        return Surrogate(self._problem, self._objectives, starts, self._settings.seed)

    def proposal(
        self, number: int, plan: FidelityPlan, ceiling: float | None = None
    ) -> TrialRecord:
        """What the sampler, or a published default, proposes as trial `number`.

        `ceiling` is the quality of the uncompressed model, where it is known.
        """
        fixed: Mapping[str, Primitive] | None = None
        origin = "sampler"
        if number < len(self._starts):
            origin, fixed = "warm-start", self._starts[number]
            if fixed is None:
                return self._record(number, {}, self.uncompressed(), origin)
        record = None
        for attempt in range(_ATTEMPTS):
            if attempt or fixed is None:
                origin, fixed = "sampler", self._chosen(number, attempt, ceiling)
            record = self._attempt(number, attempt, fixed, origin, plan)
            if record.state != "duplicate":
                break
        assert record is not None
        return record

    def _chosen(self, number: int, attempt: int, ceiling: float | None) -> Params | None:
        """The surrogate's answer; None leaves it to the sampler."""
        if self._surrogate is None:
            return None
        return self._surrogate.propose(number, attempt, lambda: self._known(ceiling))

    def _known(self, ceiling: float | None) -> Known:
        """All that a proposal may rest on."""
        records, numbers = list(self._proposals.records), self._proposals.running
        known = self.known.values() if numbers else ()
        running = {
            r.number: r
            for r in known
            if r.number in numbers and r.config is not None and r.base is None
        }
        return Known(records, [running[n] for n in sorted(running)], self._earlier, ceiling)

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
            repaired = self._repaired(tuple(params.items()))
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
        each = self.training_macs(repaired.costs.macs, params, plan.finetunes)
        each += plan.finetune_overhead
        steps = auto_steps(plan.finetune_macs, choices.batch_size(params) * each)
        config = dataclasses.replace(
            repaired.config,
            mode="retrain",
            finetune=choices.spec(params, steps),
            options={
                **repaired.config.options,
                **options_when_chosen(get_method(repaired.config.method)),
            },
        )
        return dataclasses.replace(repaired, config=config)

    def training_macs(self, macs: int, params: Params, fine_tunes: int) -> float:
        """Multiply-accumulates of an image in a training step of a configuration of `macs`, when so
        many fine-tunes share the teacher's answers."""
        share = self._problem.space.finetune.teacher_share(params, fine_tunes)
        return image_macs(macs, share * self.uncompressed_macs)

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

    def _warm_starts(self) -> tuple[list[Params | None], list[Params]]:
        """(uncompressed models inside the budget, of which None is the first or only backbone's;
        the proposals to go on with)."""
        space = self._problem.space
        starts = warm_starts(space, self._problem.facts)
        wholes: list[Params | None] = [None] if self.uncompressed().violation <= 0.0 else []
        if not space.backbones:
            return wholes, starts
        further = {name for name in space.names()[1:] if self.uncompressed(name).violation <= 0.0}
        plain = [p for p in starts if p["method"] == "none"]
        wholes += [p for p in plain if p["backbone"] in further]
        return wholes, [p for p in starts if p not in plain]

    @cached_property
    def uncompressed_macs(self) -> int:
        """Of one image, at the default subnet."""
        return self._problem.costs.cost(self._problem.whole).macs

    def uncompressed(self, backbone: str = "") -> Repaired:
        """The model as it is, with its violation of the budget if any; of several backbones the
        first by default."""
        config = CompressionConfig(backbone=backbone) if backbone else self._problem.whole
        costs = self._problem.costs.cost(config)
        predicted = dict(self._problem.predict(config)) if self._problem.predict else {}
        found = Repaired(config, costs=costs, predicted=predicted)
        over = worst_excess(self._problem.budgets, found.values)
        return dataclasses.replace(found, violation=over)


def _repaired(problem: Problem, answers: tuple[tuple[str, Primitive], ...]) -> Repaired:
    """What a proposal comes to inside the budgets.

    Raises:
        ConfigError, IncompatibleMethod: it cannot be.
    """
    params = dict(answers)
    shape = problem.space.decode(params, problem.facts)
    return repair(shape, float(params["budget_fraction"]), problem)
