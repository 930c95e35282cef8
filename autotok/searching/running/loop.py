"""`Search`: ask -> decode -> repair -> gate -> evaluate -> promote -> fine-tune -> tell.

Holds no model and runs nothing: `ask` gives configurations to evaluate, `advance` takes tallies and
says whether more images are wanted, `fail` takes reasons. Decisions depend on finished trials only.

Methods whose token counts depend on the image are drafted by nominal counts. From their first
judgement on, a record's configuration holds the thresholds that ran and its costs are the mean over
the images judged; where that mean is outside a budget, the record is infeasible and says why.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotok.config import CompressionConfig
from autotok.methods.base import Training
from autotok.methods.registry import get_method
from autotok.searching.engines.base import Job
from autotok.searching.proposing.promotions import can_reach_front, worth_tuning
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.proposing.trial_builder import TrialBuilder
from autotok.searching.records.pareto import Front, best_of
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.problem import Problem, TallyLike, Tuned, early_score, to_score
from autotok.searching.space.settings import FidelityPlan, SearchSettings

from .device_corrections import DeviceCorrections
from .events import trial_text
from .judged_record import after_finetune, judged, plain_tally, under_config

_LOG = logging.getLogger(__name__)
REFERENCE = -1
"""Number under which the uncompressed model's tally is kept, inside the budget or not."""
_FRUITLESS = 40
"""Proposals in a row without a new configuration after which the space counts as exhausted."""


@dataclass
class _OpenTrial:
    """A trial under way, and what is known of it."""

    record: TrialRecord
    tally: TallyLike | None = None
    stop: int = 0
    seconds: float = 0.0
    untuned: TallyLike | None = None
    tuned: Tuned | None = None

    @property
    def config(self) -> CompressionConfig:
        assert self.record.config is not None
        return self.record.config


class Search:
    """One study under way."""

    def __init__(
        self,
        settings: SearchSettings,
        problem: Problem,
        proposals: Proposals,
        plan: FidelityPlan,
        corrections: DeviceCorrections | None = None,
    ) -> None:
        """`corrections` are those whose `problem` this is."""
        self.settings, self.problem, self.plan = settings, problem, plan
        self.proposals, self.corrections = proposals, corrections or DeviceCorrections(problem)
        self.builder = TrialBuilder(settings, problem, proposals)
        self.objectives = proposals.objectives
        self._open: dict[int, _OpenTrial] = {}
        self._retrained: set[int] = set()
        """Trials whose configuration was to be fine-tuned."""
        self.promoted = 0
        """Of those, what was fine-tuned, under way included, and was not known already."""
        self._fruitless = 0
        self.evaluated = 0
        """Different configurations that were evaluated."""
        self.over = self.tried = 0
        """Those and what failed, and of them what is no promotion."""
        for record in proposals.records:
            self._count(record)
        self._elsewhere = self._tuned_elsewhere()
        self.tallies: dict[int, TallyLike] = {}
        self.ceiling: float | None = None
        """Quality of the uncompressed model as known when the search was planned: whether a run was
        stopped in between, or has judged that model on more images since, changes no proposal."""

    # --- what is known

    @property
    def records(self) -> list[TrialRecord]:
        """Finished trials in logical order."""
        return list(self.proposals.records)

    @property
    def candidates(self) -> list[TrialRecord]:
        """Those of a quality inside the budget whose models this run can build: what may be
        recommended."""
        return [r for r in self.records if r.measured and r.number not in self._elsewhere]

    def _tuned_elsewhere(self) -> set[int]:
        """Trials of other runs of the study that left their fine-tuned weights there."""
        here = self.problem.has_weights
        tuned = [r for r in self.records if r.tuned is not None and r.config is not None]
        found = [] if here is None else [r.number for r in tuned if r.config and not here(r.config)]
        if found:
            _LOG.warning(
                "trial%s %s of the study left fine-tuned weights in another run's folder: this run"
                " cannot build them and recommends others",
                *("s" * (len(found) > 1), ", ".join(map(str, found))),
            )
        return set(found)

    def front(self) -> list[TrialRecord]:
        """Non-dominated evaluated trials, cheapest first."""
        return self.proposals.front.records

    def best(self) -> TrialRecord | None:
        """The best of the front by the first objective, so far."""
        return self.proposals.front.best

    def tally(self, record: TrialRecord) -> TallyLike | None:
        """The sums behind a finished trial's quality, if they were kept."""
        return self.tallies.get(record.number) or self._tally_of_dict(record.tally)

    def _tally_of_dict(self, data: Mapping[str, Any] | None) -> TallyLike | None:
        load = self.problem.load_tally
        return load(data) if load is not None and data is not None else None

    def _learn(self, record: TrialRecord) -> None:
        if record.config is not None and record.duplicate_of is None:
            for name in {record.config.config_id, record.drafted} - {""}:
                self.builder.known[name] = record

    def _count(self, record: TrialRecord) -> None:
        """Take a finished trial into account."""
        self._learn(record)
        fruitful = record.evaluated or record.state == "failed"
        if record.base is not None and record.base not in self._retrained:
            self._retrained.add(record.base)
            self.promoted += record.state != "duplicate"
        self.evaluated += record.evaluated
        self.over += fruitful
        self.tried += fruitful and record.base is None
        self._fruitless = 0 if fruitful else self._fruitless + 1

    # --- ask

    def ask(self) -> Job | None:
        """The next configuration to evaluate; None when the space seems exhausted.

        Infeasible shapes and configurations that are known already are recorded on the way and cost
        no evaluation. Where both modes are searched these are plug-in; see `ask_promotion`.
        """
        while self._fruitless < _FRUITLESS:
            number = self.proposals.next_number
            step = self._begin(self.builder.proposal(number, self.plan, self.ceiling))
            if isinstance(step, Job):
                return step
        return None

    def ask_promotion(self) -> Job | None:
        """The fine-tune that promises most; None when no configuration can still reach the front.

        A new trial that retrains the configuration of an earlier one; how it trains is proposed.
        """
        while self.builder.promotes:
            number, base = self.proposals.next_number, self._worth_tuning()
            if base is None:
                return None
            self._retrained.add(base.number)
            first = self._is_first(number)
            step = self._begin(self.builder.promotion(number, base, self.plan, first=first))
            if isinstance(step, Job):
                self.promoted += 1
                return step
        return None

    def paced_finetunes(self) -> list[tuple[CompressionConfig, float]]:
        """(a fine-tune, what one of its images costs in a step): the first promotion that
        `ask_promotion` would give, and that of the cheapest on the front; none where nothing is
        worth one."""
        first, found = self._worth_tuning(), []
        cheapest = [r for r in self.front()[:1] if r is not first]
        for base in [first, *cheapest] if first else []:
            number = self.proposals.next_number
            drafted = self.builder.promotion(number, base, self.plan, first=True)
            config, costs = drafted.config, drafted.costs
            if config is not None and config.finetune and costs and config.exits is None:
                macs = self.builder.training_macs(costs.macs, dict(drafted.params), fine_tunes=1)
                found.append((config, macs))
        return found

    def _is_first(self, number: int) -> bool:
        """Whether trial `number` is the first promotion, whatever order they end in."""
        records = [*self.proposals.records, *(t.record for t in self._open.values())]
        before = [r for r in records if r.number < number and r.base is not None]
        return all(r.state == "duplicate" for r in before)

    def _worth_tuning(self) -> TrialRecord | None:
        best = None
        if self._is_first(self.proposals.next_number):
            plugged = [r for r in self.records if r.base is None]
            best = best_of(Front(self.objectives, plugged).records, self.objectives)
        retraining = [t.record.base for t in self._open.values() if t.record.base is not None]
        return worth_tuning(
            *(self.records, best, self._retrained, retraining),
            *(self.objectives, self._tally_of_dict, self._hope),
        )

    @property
    def quality_of_whole(self) -> float | None:
        """Quality of the uncompressed model over all its images so far."""
        score = early_score(self.tallies.get(REFERENCE))
        return None if score is None else score.value

    @property
    def _hope(self) -> float | None:
        """What a fine-tune may hope for; of several backbones each has its own: the best seen."""
        return None if self.problem.space.backbones else self.quality_of_whole

    def _begin(self, record: TrialRecord) -> Job | TrialRecord:
        """Put a proposal into the study: a configuration to evaluate, or its record at once."""
        constraints = {"budget": record.violation} if record.state != "failed" else {}
        self.proposals.start(record, constraints=constraints)
        if record.state != "running":
            return self._finish(record)
        self._learn(record)
        trial = self._open[record.number] = _OpenTrial(record)
        config = trial.config
        if config.mode != "retrain":
            return Job(record.number, config, 0, self.plan.few)
        if get_method(config.method).training_need is Training.REQUIRED:
            return Job(record.number, config, task="finetune")  # plugged in, it says nothing
        plain = self.builder.known.get(config.plugged_in.config_id)
        tally = None if plain is None else self.tally(plain)
        if tally is not None:
            return self._judge_untuned(trial, tally)
        return Job(record.number, config.plugged_in, 0, self.plan.few)

    def _judge_untuned(self, trial: _OpenTrial, tally: TallyLike) -> Job | TrialRecord:
        """Fine-tune what can still reach the front; else stop here."""
        trial.untuned = tally
        number, score = trial.record.number, to_score(tally)
        scored = dataclasses.replace(trial.record, state="complete", score=score)
        if trial.record.base is None and not can_reach_front(scored, self.front(), self.objectives):
            trial.tally = tally
            trial.record = under_config(trial.record, trial.config.plugged_in)  # all that ran
            trial.record = judged(trial.record, tally, self.problem.budgets)
            why = "before its fine-tune: dominated even if that regained everything"
            return self._complete(number, trial, why)
        return Job(number, trial.config, task="finetune")

    # --- advance and tell

    def advance(self, number: int, tally: TallyLike, seconds: float) -> Job | TrialRecord:
        """Take in a tally: more images for a trial that nothing dominates, else its record."""
        trial = self._open[number]
        trial.seconds += seconds
        tally = tally if trial.tally is None else trial.tally + tally  # of no more images, maybe
        score = to_score(tally)
        if not math.isfinite(score.value):
            return self.fail(number, f"diverged: {score.metric} is {score.value}", 0.0)
        if trial.config.mode == "retrain" and trial.tuned is None:
            return self._judge_untuned(trial, tally)
        trial.tally = tally
        trial.record = judged(trial.record, trial.tally, self.problem.budgets)
        first = trial.stop == 0
        trial.stop = self.plan.few if first else self.plan.more
        if not first or self.plan.more == self.plan.few or not trial.record.feasible:
            return self._complete(number, trial, "")
        if self.proposals.front.has_room_for(trial.record):
            return Job(number, trial.config, self.plan.few, self.plan.more)
        return self._complete(number, trial, f"after {self.plan.few} images: dominated")

    def tuned(self, number: int, tuned: Tuned, seconds: float) -> Job:
        """Take in a finished fine-tune: its weights are judged next."""
        trial = self._open[number]
        trial.seconds += seconds
        trial.tuned = tuned
        trial.record = after_finetune(trial.record, tuned)
        return Job(number, trial.config, 0, self.plan.few)

    def _complete(self, number: int, trial: _OpenTrial, stopped: str) -> TrialRecord:
        del self._open[number]
        assert trial.tally is not None
        kept = plain_tally(trial.tally)
        if kept is None or self.problem.load_tally is None:  # else it can be had from its record
            self.tallies[number] = trial.tally
        record = dataclasses.replace(
            trial.record,
            state="complete" if trial.record.feasible else "infeasible",
            fidelity="more" if trial.stop > self.plan.few else "few",
            seconds=trial.seconds,
            tally=kept,
            untuned=plain_tally(trial.untuned),
            tuned=plain_tally(trial.tuned),
            stopped=stopped,
        )
        return self._finish(record)

    def fail(self, number: int, reason: str, seconds: float) -> TrialRecord:
        """Record a trial that raised, ran out of memory or diverged; the search goes on."""
        trial = self._open.pop(number)
        spent = trial.seconds + seconds
        return self._finish(
            dataclasses.replace(trial.record, state="failed", reason=reason, seconds=spent)
        )

    def _finish(self, record: TrialRecord) -> TrialRecord:
        if record.state == "duplicate":
            record = self._copy_known(record)
        self.proposals.tell(record)
        self._count(record)
        _LOG.info("trial %d %s: %s", record.number, record.state, trial_text(record))
        return record

    def _copy_known(self, record: TrialRecord) -> TrialRecord:
        """A duplicate is told with the values known; without any it teaches nothing."""
        assert record.config is not None
        known = self.builder.known[record.config.config_id]
        if known.score is None or not known.feasible:
            # above 0, or samplers would take it for one inside the budget
            worst = max(0.01, record.violation, known.violation)
            return dataclasses.replace(record, state="infeasible", violation=worst)
        return dataclasses.replace(
            record, score=known.score, fidelity=known.fidelity, costs=known.costs
        )
