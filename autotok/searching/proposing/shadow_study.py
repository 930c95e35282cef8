"""`ShadowStudy`: what Optuna's samplers see, the finished trials in logical order and nothing else.

In memory and made anew for every proposal, so that a proposal depends on finished results only.
"""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotok.config import Primitive
from autotok.searching.records.pareto import Front
from autotok.searching.space.parameters import Parameter

_HISTORY, _ELITE = 90, 45
"""Trials that TPE and GP look at, and how many of those are on the front: bounds an ask's time."""


class _Finished(FrozenTrial):
    """A finished trial as samplers see it; shared instead of copied, for nothing changes it."""

    _known_constraints: dict[str, float]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Finished:
        twin = object.__new__(_Finished)
        twin.__dict__.update(self.__dict__)
        return twin

    @classmethod
    def of(cls, trial: FrozenTrial) -> _Finished:
        """A twin without notes, which samplers do not read."""
        twin = object.__new__(cls)
        twin.__dict__.update(trial.__dict__)
        twin.user_attrs = {}
        known = trial.constraints
        twin._known_constraints = {k: v for k, v in known.items() if not k.isdigit()}
        return twin

    @property
    def constraints(self) -> dict[str, float]:
        """Parsed once: TPE asks several times per trial and parameter."""
        return self._known_constraints


class ShadowStudy:
    """Finished trials, and in-memory studies of them."""

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = list(directions)
        self._trials: list[tuple[int, FrozenTrial]] = []

    def add(self, number: int, trial: FrozenTrial) -> None:
        """Take a finished trial in, at its logical place."""
        bisect.insort(self._trials, (number, _Finished.of(trial)), key=lambda pair: pair[0])

    def study(self, sampler: BaseSampler, front: Front) -> optuna.Study:
        """A study holding what the sampler may know, in logical order."""
        storage = InMemoryStorage()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                directions=self._directions,
                study_name="shadow",
            )
        if not isinstance(sampler, RandomSampler):
            bounded = isinstance(sampler, (TPESampler, GPSampler))
            for trial in self.visible(_HISTORY if bounded else None, front):
                storage.create_new_trial(study._study_id, template_trial=trial)
        return study

    def visible(self, most: int | None, front: Front) -> list[FrozenTrial]:
        """The trials in logical order; of more than `most`, the front and the latest."""
        pairs = [pair for pair in self._trials if pair[1].state != TrialState.FAIL]
        if most is not None and len(pairs) > most:
            elite = set(sorted(r.number for r in front.records)[-_ELITE:])
            rest = [pair for pair in pairs if pair[0] not in elite]
            keep = elite | {number for number, _ in rest[len(elite) - most :]}
            pairs = [pair for pair in pairs if pair[0] in keep]
        return [trial for _, trial in pairs]


def suggest(trial: optuna.Trial, parameter: Parameter) -> Primitive:
    """A parameter's answer from Optuna."""
    if parameter.choices:
        choice = trial.suggest_categorical(parameter.name, list(parameter.choices))
        assert choice is not None
        return choice
    if parameter.integer:
        return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high))
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def distribution(parameter: Parameter) -> BaseDistribution:
    """What Optuna calls the range of a parameter."""
    if parameter.choices:
        return CategoricalDistribution(list(parameter.choices))
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
