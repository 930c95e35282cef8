"""Which proposals were tried, noted as trials finish: hundreds of candidates are asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from autotok.config import Primitive
from autotok.searching.records.record import TrialRecord

_Key = tuple[tuple[str, Primitive], ...]


@dataclass(frozen=True)
class Named:
    """A proposal, and by what it and its shape are told from others."""

    params: Mapping[str, Primitive]

    @cached_property
    def key(self) -> _Key:
        """Its answers; plugged in or retrained, it is the same."""
        return tuple(sorted((k, v) for k, v in self.params.items() if k != "mode"))

    @cached_property
    def shape(self) -> _Key:
        """At whatever cost: outside the budget at its cheapest, it is so at any."""
        return tuple(item for item in self.key if item[0] != "budget_fraction")


class TriedProposals:
    """The proposals of finished trials, and the shapes that turned out to be outside."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._proposals: dict[_Key, int] = {}
        """The first trial of each."""
        self._outside: dict[_Key, int] = {}

    def take_in(self, records: Sequence[TrialRecord]) -> None:
        """Note those that are new, by their numbers; records never change."""
        for record in [r for r in records if r.number not in self._taken]:
            named, number = Named(record.params), record.number
            self._taken.add(number)
            self._proposals[named.key] = min(number, self._proposals.get(named.key, number))
            if record.state == "infeasible" and record.config is None:  # at its cheapest
                self._outside[named.shape] = min(number, self._outside.get(named.shape, number))

    def is_new(self, named: Named, number: float = math.inf) -> bool:
        """Whether no trial before `number` tried it, or found its shape to be outside."""
        return (
            self._proposals.get(named.key, number) >= number
            and self._outside.get(named.shape, number) >= number
        )
