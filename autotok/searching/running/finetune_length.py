"""How much each fine-tune of a search may do: the time that its trials left over, at the speed at
which training steps run where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import fmean

from autotok.config import CompressionConfig
from autotok.searching.engines.base import Engine, Job
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.space.settings import FidelityPlan

from .loop import REFERENCE, Search
from .time_limit import TimeLimit

_APART = 0.8
_LEAST_SLOPE = 0.05
"""Of an image's time, what its multiply-accumulates take at least."""


def fit_finetunes(
    search: Search,
    notes: Proposals,
    clock: TimeLimit,
    engine: Engine,
    on_pace: Callable[[], object],
) -> None:
    """Set the plan's effort per fine-tune; found once and kept with the study.

    `on_pace` is called before a few steps are run for their speed.
    """
    if notes.noted("finetune_room") is None:
        notes.note("finetune_pace", _pace(search, engine, on_pace))
        notes.note("finetune_room", clock.finetune_room())
    search.plan = fitted(search.plan, notes)


def fitted(plan: FidelityPlan, notes: Proposals) -> FidelityPlan:
    """The plan with the effort per fine-tune that the study keeps, if it was found already."""
    room, pace = map(notes.noted, ("finetune_room", "finetune_pace"))
    if room is None or plan.finetune_s is None or plan.finetune_macs is None:
        return plan
    seconds, macs = float(room) * plan.finetune_s, float(room) * plan.finetune_macs
    if pace is not None:
        plan = dataclasses.replace(plan, finetune_overhead=pace["overhead"])
        macs = seconds * pace["macs_per_s"]
    return dataclasses.replace(plan, finetune_s=seconds, finetune_macs=macs)


def _pace(search: Search, engine: Engine, on_pace: Callable[[], object]) -> dict[str, float] | None:
    """Multiply-accumulates that a worker's fine-tune does in a second while the others are as busy,
    and what an image takes besides, as many of them; None where that cannot be seen.

    From a few steps of two configurations, the cheaper of which tells what does not shrink.
    """
    planned_s, asked = search.plan.pace_s, search.paced_finetunes()
    if search.problem.pace is None or not planned_s or not asked:
        return None
    on_pace()
    seen = []
    for seed, (config, macs) in enumerate(asked):  # other images, which the teacher has not seen
        assert config.finetune is not None
        spec = dataclasses.replace(
            config.finetune,
            length=f"{planned_s / 2 / 60} minutes",
            seed=config.finetune.seed + seed,
        )
        seconds = _training_s_per_image(engine, dataclasses.replace(config, finetune=spec))
        if seconds is None:
            return None  # the fine-tune itself will say why
        seen.append((macs, seconds))
    return line_through(*seen[0], *seen[-1])


def _training_s_per_image(engine: Engine, config: CompressionConfig) -> float | None:
    for _ in range(engine.capacity):
        engine.submit(Job(REFERENCE, config, task="pace"))
    done = [engine.collect().tuned for _ in range(engine.capacity)]
    paces = [one.seconds / one.images for one in done if one is not None]
    return fmean(paces) if paces else None


def line_through(
    macs: float, seconds: float, fewer_macs: float, fewer_seconds: float
) -> dict[str, float]:
    """The speed of multiply-accumulates and the overhead in them that explain two images; two that
    cost about the same tell of no overhead, and no image's time is overhead almost alone."""
    slope = seconds / macs
    if fewer_macs < _APART * macs:
        slope = min(slope, (seconds - fewer_seconds) / (macs - fewer_macs))
    slope = max(slope, _LEAST_SLOPE * seconds / macs)
    return {"macs_per_s": 1.0 / slope, "overhead": max(0.0, seconds / slope - macs)}
