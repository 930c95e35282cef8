"""The probe of one fine-tune: its steps at each rate, and what they cost."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from autotok.errors import Diverged

from .heldout import snapshot
from .probe import SHARE, ProbePlan, RateChoice, Tried, choose, climb, finite_loss, plan_probe
from .schedule import TrainingPlan
from .steps import TrainingRun, steps_at

TIMED = 200
"""Steps that a fine-tune whose length is a time is probed as if it had."""
_LOG = logging.getLogger(__name__)


def find_rate(run: TrainingRun, began: float) -> None:
    """Choose the run's rate; what that cost is taken off its length."""
    timed = run.plan.steps is None
    images = run.order.batch_size * run.spec.accumulate
    plan = plan_probe(run.plan.steps or TIMED, images, len(run.held_out.indices))
    if plan is None:
        why = f"{run.plan.steps} steps are too few for a probe"
        run.choice = RateChoice(run.choice.lr, why)
        return
    start = run.judged(plan.images)
    weights = snapshot(run.student), snapshot(run.objective)

    def more(tried: int) -> bool:
        if not timed:
            return tried < plan.rates
        assert run.plan.seconds is not None
        spent = run.ranks.agreed(time.perf_counter() - began)
        return spent * (tried + 1) / tried <= SHARE * run.plan.seconds

    found = climb(lambda lr: _loss_at(run, lr, plan, weights), start, more)
    run.student.load_state_dict(weights[0])
    run.objective.load_state_dict(weights[1])
    lr, why = choose(found, start)
    spent = math.ceil(len(found) * plan.cost)
    tried = tuple(Tried(rate, finite_loss(loss)) for rate, loss in found.items())
    run.choice = RateChoice(lr, why, finite_loss(start), plan.steps, tried, spent)
    run.set_rate(lr)
    if run.plan.steps is not None:
        run.plan = TrainingPlan(max(1, run.plan.steps - spent), None)
    _LOG.info("learning rate %g: %s", lr, why)


def _loss_at(run: TrainingRun, lr: float, plan: ProbePlan, weights: tuple[Any, Any]) -> float:
    """Loss on held-out images after the probe's steps at a rate; infinite where it is no number."""
    run.student.load_state_dict(weights[0])
    run.objective.load_state_dict(weights[1])
    try:
        steps_at(run, lr, plan.steps)
    except Diverged:
        return math.inf
    return run.judged(plan.images)
