"""What it costs to stop at each exit: the blocks up to there, and every head that was asked."""

from __future__ import annotations

import math

import numpy as np

from autotok.compression.exit_scores import (
    ExitScores,
    stopped_macs,
    sureness,
    threshold_meeting,
)
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import Schedule, realise
from autotok.compression.tap_request import TapRequest
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig
from autotok.facts import BackboneFacts
from autotok.methods.base import Counts
from autotok.methods.registry import get_method

from .exit_head_costs import exit_head_macs, leaving_counts, scheduled_rows
from .macs import LiveCounts, counted_macs
from .two_pass import PassCosts


def macs_by_exit(
    facts: BackboneFacts,
    config: CompressionConfig,
    counts: LiveCounts,
    rows: Counts,
) -> tuple[Counts, Counts]:
    """Multiply-accumulates of M images at each exit and at the end, (M, E + 1), and those without
    attention products; `rows` (E, M) are the tokens that a head's products run over.
    """
    policy, method = config.exits, get_method(config.method)
    assert policy is not None
    found: tuple[list[Counts], list[Counts]] = ([], [])
    heads = np.zeros(len(counts.entering), dtype=np.int64)
    linear_heads = heads
    for number, stop in enumerate([*policy.layers, None]):
        if stop is not None:
            own = exit_head_macs(policy.kinds[number], facts, stop, rows[number])
            heads, linear_heads = heads + own[0], linear_heads + own[1]
        macs, linear = counted_macs(facts, method, config, counts, stop=stop)
        found[0].append(macs + heads)
        found[1].append(linear + linear_heads)
    return np.stack(found[0], axis=1), np.stack(found[1], axis=1)


def scheduled_exit_macs(
    facts: BackboneFacts, config: CompressionConfig, schedule: Schedule | None = None
) -> Counts:
    """(E + 1,) multiply-accumulates of stopping at each exit, and of going on to the end with every
    head asked, by the nominal counts of the schedule.

    A thinned grid of reduced tokens is counted as all live tokens, the most that it can be.
    """
    policy = config.exits
    assert policy is not None
    schedule = realise(config, facts) if schedule is None else schedule
    found: Counts = exit_macs_of(facts, config, np.array([schedule.kept], dtype=np.int64))[0]
    return found


def exit_macs_of(facts: BackboneFacts, config: CompressionConfig, counts: Counts) -> Counts:
    """`scheduled_exit_macs` of many schedules at once, (M, E + 1): those of a configuration, with
    the patch tokens `counts` (M, S) leaving its reduction layers; nothing is checked."""
    policy, method = config.exits, get_method(config.method)
    assert policy is not None
    layers = tuple(r.layer for r in config.reductions)
    found = method.occupancy(layers, counts, facts, method.resolve_options(config.options))
    leaving = leaving_counts(facts, config, found.mlp, counts)
    first = np.full((len(counts), 1), facts.num_patches, dtype=np.int64)
    entering = np.hstack([first, leaving[:, :-1], found.readout[:, None]])
    every = LiveCounts(entering, found.attention, found.mlp, found.readout)
    return macs_by_exit(facts, config, every, scheduled_rows(facts, policy, leaving))[0]


def measured_exit_macs(model: CompressedViT, scores: ExitScores) -> tuple[Counts, Counts]:
    """(B, E + 1) multiply-accumulates of stopping at each exit and at the end, by the tokens that
    really ran, and those without attention products."""
    counts, rows = ran_counts(model, scores.watch), scores.rows.cpu().numpy().astype(np.int64)
    return macs_by_exit(model.backbone.facts, model.config, counts, rows)


def ran_counts(model: CompressedViT, watch: TapRequest) -> LiveCounts:
    """Of the images that were watched, by the tokens that really ran."""

    def table(name: str) -> Counts:
        rows = [getattr(watch.counts[i], name) for i in range(model.backbone.facts.num_blocks + 1)]
        return np.stack([row.cpu().numpy().astype(np.int64) for row in rows], axis=1)

    attention = table("attention")
    return LiveCounts(table("entering"), attention[:, :-1], table("mlp")[:, :-1], attention[:, -1])


def macs_by_stop(model: CompressedViT) -> tuple[int, ...]:
    """Multiply-accumulates of an image by where it stops, the end last, at nominal counts; () of a
    model that never stops early."""
    facts, config = model.backbone.facts, model.config
    if isinstance(model, TwoPassViT):
        each = PassCosts.of(facts, config)
        return each.exit, each.both
    if config.exits is None:
        return ()
    return tuple(scheduled_exit_macs(facts, config, model.schedule).tolist())


def exit_threshold(
    model: CompressedViT, scores: ExitScores, mean_macs: float, *, errors: float = 0.0
) -> float:
    """The threshold under which recorded images cost `mean_macs` on average, or as close below as
    it goes; every exit shares it.

    With `errors` the mean stays that many of its standard errors below, or as far as it can: images
    that were not recorded cost a little more or less.

    Raises:
        ConfigError: the criterion has no single threshold, or the cost cannot be met.
    """
    assert model.exits is not None
    criterion = model.exits.policy.criterion
    sure, costs = sureness(model, scores), measured_exit_macs(model, scores)[0]
    found = threshold_meeting(sure, costs, mean_macs, criterion=criterion)
    if not errors:
        return found
    spent = stopped_macs(sure, costs, found, criterion=criterion)
    below = mean_macs - errors * float(spent.std()) / math.sqrt(len(spent))
    least = max(below, float(costs[:, 0].mean()))
    return threshold_meeting(sure, costs, least, criterion=criterion)
