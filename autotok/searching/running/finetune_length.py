"""How much each fine-tune of a search may do: the time that its trials left over, at the speed at
which training steps run where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import fmean

from autotok.searching.engines.base import Engine, Job
from autotok.searching.proposing.proposals import Proposals

from .loop import REFERENCE, Search
from .time_limit import TimeLimit

_SHARE = 0.1
"""Of the time of a fine-tune, for seeing how fast they run."""


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
        notes.note("finetune_macs_per_s", _speed(search, engine, on_pace))
        notes.note("finetune_room", clock.finetune_room())
    room, speed = map(notes.noted, ("finetune_room", "finetune_macs_per_s"))
    plan = search.plan
    if plan.finetune_s is not None and plan.finetune_macs is not None:
        seconds = float(room) * plan.finetune_s
        macs = float(room) * plan.finetune_macs if speed is None else seconds * float(speed)
        search.plan = dataclasses.replace(plan, finetune_s=seconds, finetune_macs=macs)


def _speed(search: Search, engine: Engine, on_pace: Callable[[], object]) -> float | None:
    """Multiply-accumulates that a worker's fine-tune does in a second while the others are as busy,
    from a few steps of the first promotion; None where that cannot be seen."""
    planned, found = search.plan.finetune_s, search.first_finetune()
    if search.problem.pace is None or planned is None or found is None:
        return None
    config, macs = found
    assert config.finetune is not None
    on_pace()
    spec = dataclasses.replace(config.finetune, length=f"{_SHARE * planned / 60} minutes")
    job = Job(REFERENCE, dataclasses.replace(config, finetune=spec), task="pace")
    for _ in range(engine.capacity):
        engine.submit(job)
    done = [engine.collect().tuned for _ in range(engine.capacity)]
    speeds = [macs * one.images / max(one.seconds, 1e-9) for one in done if one is not None]
    return fmean(speeds) if speeds else None  # else the fine-tune itself will say why
