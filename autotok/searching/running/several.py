"""One problem of several backbones: a session each, on the same images in the same order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autotok.config import CompressionConfig
from autotok.errors import DataError
from autotok.evaluation.own_quality import OwnQuality
from autotok.searching.space.problem import Problem, budgets_of

from .question import COMPARABLE, Question
from .session import Loaded, Session, build_problem

_COMPARED = 64
"""Images in whose order two sets are compared, as a folder decodes what it is asked for; other
labels give another order, which every one of them can tell."""


def build_session(
    question: Question,
    model: nn.Module | None = None,
    *,
    seed: int = 0,
    weights: Path | None = None,
    finetunes: int | None = None,
    own: OwnQuality | None = None,
    loaded: Loaded | None = None,
) -> Session:
    """The session of a question, of one backbone or several; see `build_problem`.

    Of several, budgets are those of the first, which a share is of.

    Raises:
        DataError: the backbones do not see the same labelled images.
    """

    if not question.backbones:
        return build_problem(
            *(question, model),
            seed=seed,
            weights=weights,
            finetunes=finetunes,
            own=own,
            loaded=loaded,
        )

    def session(name: str, precision: str) -> Session:
        alone = dataclasses.replace(question, backbone=name, backbones=(), precision=precision)
        return build_problem(alone, seed=seed, weights=weights, finetunes=finetunes, own=own)

    every = {name: session(name, question.precision) for name in question.backbones}
    formats = {found.question.precision for found in every.values()}
    if len(formats) > 1:  # what agrees with float32 on one of them does not on another
        every = {name: session(name, "float32") for name in question.backbones}
    first = every[question.backbones[0]]
    for name, found in every.items():
        _require_same_images(question, name, found, first)
    settled = dataclasses.replace(
        question,
        precision=first.question.precision,
        precision_why=question.precision_why or first.question.precision_why,
    )
    problem = joined_problem({name: found.problem for name, found in every.items()})
    budgets = budgets_of(question.requests, problem.facts, first.problem.predict)
    reasons = (found.plug_in_only for found in every.values() if found.plug_in_only)
    return dataclasses.replace(
        first,
        question=settled,
        problem=dataclasses.replace(problem, budgets=budgets),
        plug_in_only=next(reasons, None),
        several=every,
    )


def joined_problem(problems: Mapping[str, Problem]) -> Problem:
    """The problem of several backbones by name; a configuration goes to the one that it names."""
    first = next(iter(problems.values()))

    def routed(name: str) -> Callable[..., Any] | None:
        """What the problem that a configuration names does with it; None where none can."""

        def done(config: CompressionConfig, *images: int) -> Any:
            return getattr(problems.get(config.backbone, first), name)(config, *images)

        return None if getattr(first, name) is None else done

    def held() -> Mapping[str, str]:
        every = {name: problem.held() for name, problem in problems.items()}
        found = [f"{said['weights']} of {name}" for name, said in every.items() if said]
        return {**first.held(), **({"weights": ", ".join(found)} if found else {})}

    mode = min((problem.space.mode for problem in problems.values()), key=len)
    exclude = dict.fromkeys(name for p in problems.values() for name in p.space.exclude)
    facts = tuple((name, problem.facts) for name, problem in problems.items())
    space = dataclasses.replace(first.space, backbones=facts, mode=mode, exclude=tuple(exclude))
    ways: dict[str, Any] = {
        name: routed(name) for name in ("evaluate", "finetune", "pace", "count", "predict")
    }
    return dataclasses.replace(
        first,
        **ways,
        space=space,
        held=held,
        total_images=min(problem.total_images for problem in problems.values()),
    )


def _require_same_images(question: Question, name: str, found: Session, first: Session) -> None:
    """Raise `DataError` unless a backbone is judged by the same labelled images as the first."""
    data, other = found.evaluator.data, first.evaluator.data
    if found.evaluator.metric not in COMPARABLE:
        raise DataError(
            f"data '{data.name}' has no labels that backbone '{name}' answers in"
            f" ({data.labelling}), and several backbones are compared by right answers; give"
            " labelled data, or search one backbone at a time"
        )
    first_ones, their_first = (d.subset(_COMPARED, found.evaluator.seed) for d in (data, other))
    if len(data) != len(other) or first_ones != their_first:
        raise DataError(
            f"data '{data.name}' has other labels for backbone '{name}' than for"
            f" '{question.backbone}', so the two cannot be compared image by image; give"
            " --class-names, or search one backbone at a time"
        )
