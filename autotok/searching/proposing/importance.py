"""Which parameters the objectives hung on, by Optuna's functional ANOVA over what was evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from autotok.config import Primitive
from autotok.searching.records.objective import Objective
from autotok.searching.records.record import TrialRecord

FEWEST = 16
"""With fewer configurations a forest tells chance."""
MOST = 200
"""The latest ones: bounds the time, which rises with the square."""
FIRST, NUMBER = "first reduction layer", "reduction layers"


@dataclass(frozen=True)
class Importances:
    """Shares of the variance of each objective; none where too few were evaluated."""

    num_trials: int
    shares: Mapping[str, Mapping[str, float]]
    """By objective, then by parameter, the largest share first; they add up to 1. None of an
    objective that is the same in all."""


def importances(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> Importances:
    """What mattered among complete trials: parameters that all of them have, and two facts of a
    schedule that are asked for in different words (Hutter et al., ICML 2014, for the method)."""
    names = [objective.name for objective in objectives]
    told = [
        r for r in records if r.state == "complete" and r.params and set(names) <= r.values.keys()
    ]
    if len(told) < FEWEST:
        return Importances(len(told), {})
    told = told[-MOST:]
    answers = _answers(told)
    if not answers:
        return Importances(len(told), {})
    study = _study(told, answers, names)
    return Importances(len(told), {o.name: _shares(study, i) for i, o in enumerate(objectives)})


def _answers(records: Sequence[TrialRecord]) -> dict[str, list[Primitive]]:
    """By parameter, what each record has; what all have alike is left out."""
    common = set.intersection(*(set(r.params) for r in records))
    columns: dict[str, list[Primitive]] = {
        name: [r.params[name] for r in records] for name in records[0].params if name in common
    }
    columns[FIRST] = [r.layers[0] if r.layers else -1 for r in records]
    columns[NUMBER] = [len(r.layers) for r in records]
    return {name: column for name, column in columns.items() if len(set(column)) > 1}


def _study(
    records: Sequence[TrialRecord],
    answers: Mapping[str, Sequence[Primitive]],
    objectives: Sequence[str],
) -> optuna.Study:
    kinds = {name: _distribution(column) for name, column in answers.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(objectives))
    study.add_trials(
        [
            create_trial(
                params={name: column[i] for name, column in answers.items()},
                distributions=kinds,
                values=[float(record.values[name]) for name in objectives],
            )
            for i, record in enumerate(records)
        ]
    )
    return study


def _distribution(column: Sequence[Primitive]) -> BaseDistribution:
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column):
        return FloatDistribution(float(min(column)), float(max(column)))
    return CategoricalDistribution(sorted(set(column), key=str))


def _shares(study: optuna.Study, index: int) -> dict[str, float]:
    evaluator = FanovaImportanceEvaluator(seed=0)
    try:
        found = get_param_importances(study, evaluator=evaluator, target=lambda t: t.values[index])
    except RuntimeError:  # no tree finds any variance: the objective is the same in all
        return {}
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: float(share) for name, share in ranked}
