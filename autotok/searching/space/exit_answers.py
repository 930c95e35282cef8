"""Which exits a space asks for: answers in the words of `--exits`, and which of them a method can
stand beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotok.config import Primitive
from autotok.errors import ConfigError
from autotok.exits import parse_exits
from autotok.methods.base import Count, Kind, Placement, TokenReducer, Training
from autotok.methods.two_pass import TwoPass

NO_EXITS = "none"


def exit_answers(words: Sequence[str]) -> tuple[str, ...]:
    """Answers to which exits there are: 'none', and policies as `parse_exits` reads them.

    Raises:
        ConfigError: one is not understood, or there is nothing but 'none'.
    """
    for word in words:
        if word != NO_EXITS:
            parse_exits(word)
    if set(words) <= {NO_EXITS}:
        raise ConfigError(
            "exits name no exit; give policies such as [none, 'lgvit@4,6,8,10'], or leave them out"
        )
    return tuple(dict.fromkeys(words))


def exits_for(method: type[TokenReducer], answers: Sequence[str]) -> tuple[str, ...]:
    """The answers that a method can stand beside.

    Exits go with fixed counts and without training; one that needs the whole grid with no reduction
    before the blocks. Where nothing is reduced, images have to stop somewhere.
    """
    if method.kind is Kind.NONE:
        return tuple(answer for answer in answers if answer != NO_EXITS)
    fixed = method.count is Count.STATIC and not issubclass(method, TwoPass)
    able = fixed and method.training_need is not Training.REQUIRED
    late = method.placement is not Placement.BEFORE_BLOCKS
    return tuple(
        answer
        for answer in answers
        if answer == NO_EXITS or (able and (late or not whole_grid_until(answer)))
    )


def stops_early(params: Mapping[str, Primitive]) -> bool:
    """Whether a proposal has exits."""
    return params.get("exits", NO_EXITS) != NO_EXITS


def whole_grid_until(answer: str) -> int:
    """The first block that may reduce: behind all exits that need the whole grid."""
    if answer == NO_EXITS:
        return 0
    places = parse_exits(answer).places
    return max((layer + 1 for layer, kind in places if kind == "local-dw"), default=0)
