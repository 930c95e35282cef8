"""`Features`: configurations as the surrogate sees them, from what is known for nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotok.config import CompressionConfig, Primitive
from autotok.methods.base import Kind
from autotok.methods.registry import get_method
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.parameters import Params
from autotok.searching.space.problem import Problem
from autotok.searching.space.shape import Shape
from autotok.searching.space.subnets import PREFIX

from .candidates import BINS, SIZES, Priced, priced_as
from .gaussian_process import Inputs

WHOLE = Priced({}, "none", 1.0, (1.0,) * BINS, 1.0)
"""The uncompressed model."""
NOTHING = Priced({}, "none", 0.0, (0.0,) * BINS, 0.0)
"""No token left."""
_LEAST_LEFT = 0.02
"""Share of the tokens below which one more or less no longer matters; above it, half as many is the
same step everywhere."""
_STEP_WEIGHT = 2.0
"""Of the steepest reduction beside the tokens left at one depth."""
_SIZE_WEIGHT = 3.0
"""Of the patches of an image size beside the tokens left at one depth."""
_EXIT_WEIGHT = 3.0
"""Of how early images stop beside the tokens left at one depth."""
_STRUCTURE_WEIGHT = 6.0
"""Of each size of a structure beside the tokens left at one depth: weights were trained for the
whole one, so that half of a size changes more than half of the tokens."""
_OTHER_WEIGHT = 1.0
"""Of being another backbone, beside the same."""
_MOST_ROWS = 1000
"""Trials whose rows are kept: few are looked at, and they are the latest."""
_STRONG = 0.2
"""Share of the tokens removed at which the method makes half of the difference it can make."""
_SEEN_OTHERWISE = (
    *("method", "budget_fraction", "family", "first_layer", "num_stages"),
    *("spacing", "taper", "inflection", "image_size", "backbone", "exit_share"),
)
"""Answers that the method and the tokens at each depth stand for."""
_NOT_SEEN = "finetune.", PREFIX
"""Beginnings of others: sizes stand for a structure."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Configurations as the process sees them, and their cost over the uncompressed model's."""

    inputs: Inputs
    macs: Floats

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """One after the other."""
        inputs = Inputs.joined([p.inputs for p in parts])
        return cls(inputs, np.concatenate([p.macs for p in parts]))


class Features:
    """Rows of candidates and of records of one problem."""

    def __init__(self, problem: Problem, shapes: Sequence[Params], whole: float) -> None:
        """Options are scaled by what the `shapes` hold, costs by the uncompressed model's."""
        self._problem, self._whole = problem, whole
        self._backbones = problem.space.names()
        self._sizes = bool(problem.space.image_sizes)
        self._structure = problem.space.structure is not None
        self._exits = bool(problem.space.exits)
        self._methods = problem.space.candidates(problem.facts)
        self._scale = _Scale.over(shapes)
        self._records: dict[tuple[int, str], Rows] = {}
        self._last: tuple[list[tuple[int, str]], Rows] = [], self.of([])

    def of(self, candidates: Sequence[Priced]) -> Rows:
        """Of candidates."""
        profile = np.array([c.profile for c in candidates]).reshape(-1, BINS)
        left = np.log(profile + _LEAST_LEFT) / math.log(1.0 / _LEAST_LEFT)
        steps = np.array([c.steepest for c in candidates])
        gone = 1.0 - profile.mean(axis=1)
        seen = [left, _STEP_WEIGHT * steps[:, None]]
        if self._sizes:
            patches = np.log([c.patches for c in candidates]).reshape(-1, 1)
            seen.append(_SIZE_WEIGHT * patches / math.log(1.0 / _LEAST_LEFT))
        if self._structure:
            sizes = np.log([c.structure for c in candidates]).reshape(-1, SIZES)
            seen.append(_STRUCTURE_WEIGHT * sizes / math.log(1.0 / _LEAST_LEFT))
        if self._exits:
            seen.append(_EXIT_WEIGHT * np.array([c.stopping for c in candidates]).reshape(-1, 1))
        if len(self._backbones) > 1:
            own = [c.backbone or self._backbones[0] for c in candidates]
            same = [[name == other for other in self._backbones] for name in own]
            seen.append(_OTHER_WEIGHT * np.array(same, float).reshape(-1, len(self._backbones)))
        inputs = Inputs(
            profile=np.hstack(seen),
            removed=gone / (gone + _STRONG) * (1.0 + _STRONG),
            method=np.array([self._number(c.method) for c in candidates], dtype=np.int64),
            kind=np.array([_kind_number(c.method) for c in candidates], dtype=np.int64),
            details=self._scale.of([c.params for c in candidates]),
        )
        return Rows(inputs, np.array([c.macs for c in candidates]))

    def of_records(self, records: Sequence[TrialRecord]) -> Rows:
        """Of trials whose configuration and costs are known; the last ones asked for are kept."""
        names = [(r.number, r.config.config_id) for r in records if r.config]
        if names != self._last[0]:
            self._last = names, Rows.joined([self.of([]), *map(self._row, records)])
            if len(self._records) > _MOST_ROWS:
                self._records = {name: self._records[name] for name in names}
        return self._last[1]

    def _row(self, record: TrialRecord) -> Rows:
        """Of one trial, worked out once."""
        assert record.config is not None
        assert record.costs is not None
        key = record.number, record.config.config_id
        if key not in self._records:
            config = record.config
            facts = self._problem.costs.facts(config.subnet, config.image_size, config.backbone)
            priced = priced_as(
                record.params,
                record.config.method,
                record.costs.macs / self._whole,
                record.layers,
                record.counts,
                facts,
                model=self._problem.facts_of(config.backbone),
                stopping=self._stopping(record.config),
            )
            priced = dataclasses.replace(priced, backbone=record.config.backbone)
            self._records[key] = self.of([priced])
        return self._records[key]

    def _stopping(self, config: CompressionConfig) -> float:
        """See `Shape.stopping`."""
        if config.exits is None or config.exits.mean_macs is None:
            return 0.0
        layers = tuple(r.layer for r in config.reductions)
        shape = Shape(config.method, layers, (), options=config.options, exits=config.exits)
        counts = np.array([[int(r.num_keep or 0) for r in config.reductions]], dtype=np.int64)
        first, end = self._problem.costs.exit_macs(shape, counts)[0]
        return float((end - config.exits.mean_macs) / (end - first))

    def _number(self, method: str) -> int:
        return self._methods.index(method) if method in self._methods else -1


def _kind_number(method: str) -> int:
    """-1 for the uncompressed model, which is akin to nobody."""
    return -1 if method == "none" else list(Kind).index(get_method(method).kind)


@dataclass(frozen=True)
class _Scale:
    """Options and other answers as numbers from 0 to 1."""

    places: Mapping[str, Callable[[Primitive], float]]
    """Of each question, where an answer stands among those that the pool gives."""

    @classmethod
    def over(cls, params: Sequence[Mapping[str, Primitive]]) -> _Scale:
        """From the proposals of a pool."""
        found: dict[str, set[Primitive]] = {}
        for answers in params:
            for name, value in answers.items():
                if name not in _SEEN_OTHERWISE and not name.startswith(_NOT_SEEN):
                    found.setdefault(name, set()).add(value)
        several = {n: v for n, v in sorted(found.items()) if len(v) > 1}
        return cls({n: _placing(sorted(v, key=str)) for n, v in several.items()})

    def of(self, params: Sequence[Mapping[str, Primitive]]) -> Floats:
        """(n, d); what was not asked is 0.5."""
        found = np.full((len(params), len(self.places)), 0.5)
        for row, given in enumerate(params):
            for column, (name, place) in enumerate(self.places.items()):
                if name in given:
                    found[row, column] = place(given[name])
        return found


def _placing(known: Sequence[Primitive]) -> Callable[[Primitive], float]:
    """Where an answer stands between the first and the last of those known, 0 to 1."""
    if all(isinstance(k, (int, float)) and not isinstance(k, bool) for k in known):
        low, high = min(map(float, known)), max(map(float, known))
        return lambda value: (float(value) - low) / (high - low)
    number = {value: i / (len(known) - 1) for i, value in enumerate(known)}
    return lambda value: number.get(value, 0.5)
