"""What is measured on a device before the first trial, to tell how far predictions are off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from autotok.config import CompressionConfig
from autotok.errors import AutotokError
from autotok.methods.base import Count, Kind
from autotok.methods.registry import get_method
from autotok.searching.proposing.repair import match_cost
from autotok.searching.space.problem import Problem
from autotok.searching.space.warm_starts import warm_starts

KINDS = 2
"""Kinds of method that are measured before the first trial, beside the uncompressed model."""
SHARE = 0.6
"""Of the uncompressed cost, roughly where budgets lie."""


def early_configs(problem: Problem) -> Iterator[CompressionConfig]:
    """The uncompressed model, and published schedules of methods of different kinds, each in
    every number format of the space."""
    formats = dict.fromkeys(("float32", *problem.space.number_formats))
    for config in _configs(problem):
        for name in formats:
            yield dataclasses.replace(config, number_format=name)


def _configs(problem: Problem) -> Iterator[CompressionConfig]:
    kinds = set[Kind]()
    yield problem.whole
    macs = int(SHARE * problem.costs.cost(problem.whole).macs)
    problem = dataclasses.replace(problem, budgets=())  # what is to be learned is the device
    for params in warm_starts(problem.space, problem.facts):
        method = get_method(str(params["method"]))
        if method.name == "none" or method.kind in kinds or len(kinds) == KINDS:
            continue
        if method.count is Count.ADAPTIVE or not method.exportable:
            continue
        try:
            repaired = match_cost(problem.space.decode(params, problem.facts), macs, problem)
        except AutotokError:
            continue
        if repaired is not None and repaired.config is not None:
            kinds.add(method.kind)
            yield repaired.config
