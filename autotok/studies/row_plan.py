"""From a row of a published table to a configuration on a backbone, and where its strength is from.

A strength that the source states is taken as stated, on a stand-in the same share of its tokens at
the same relative depth. One that it does not is found from the published cost: the method's own
default schedule, made stronger or weaker until its share of the uncompressed cost is nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotok.compression.folding import pinned
from autotok.config import CompressionConfig
from autotok.counting.macs import cost, uncompressed
from autotok.errors import ConfigError, IncompatibleMethod
from autotok.facts import BackboneFacts
from autotok.methods.published import default_entry, rescaled
from autotok.methods.registry import check_compatible, get_method

from .study_table import PublishedFigure, StudyRow, StudyTable

_HALVINGS = 24
_STRONGEST = 40.0
"""Power of published keep ratios that leaves next to nothing."""
_TOLERANCE = 0.05
"""Of the uncompressed cost: as coarse as one more token per block can be."""


@dataclass(frozen=True)
class PlannedRow:
    """A row's configuration."""

    config: CompressionConfig
    schedule_from: str
    """'stated: ...', or how it was found; '' for the uncompressed model."""


@dataclass(frozen=True)
class _Scale:
    """Configurations of one method by a knob that makes them stronger as it grows."""

    at: Callable[[float], CompressionConfig]
    low: float
    high: float
    whole: bool
    """The knob is a number of tokens."""
    words: str


def plan_row(
    study: StudyTable, row: StudyRow, published: BackboneFacts, running: BackboneFacts
) -> PlannedRow:
    """The configuration of a row on the backbone it runs on.

    Args:
        published: The row's own backbone.
        running: The same, or the one that stands in for it.

    Raises:
        ConfigError: autotok lacks what the row needs, or nothing says how strong it was.
        IncompatibleMethod: the method needs what the backbone lacks.
    """
    if row.lacks:
        raise ConfigError(row.lacks)
    if row.method == "none":
        return PlannedRow(CompressionConfig(), "")
    check_compatible(get_method(row.method), running)
    if row.positions == "naive" and not running.carries_positions:
        raise IncompatibleMethod(
            f"positions 'naive' means nothing on backbone '{running.name}', which looks none up"
        )
    if row.schedule:
        entry = {"depth": published.num_blocks, "patches": published.num_patches, **row.schedule}
        config = _config(row, {"method": row.method, **entry}, running)
        if published is running:
            return PlannedRow(config, f"stated: {row.stated}")
        where = f"the same share of tokens on {running.name}"
        return PlannedRow(config, f"stated: {row.stated}; {where}")
    share, why = _asked_share(study, row)
    scale = _scale(row, running)
    knob = _nearest(scale, lambda config: _share(config, running, study.convention), share)
    reached = _share(scale.at(knob), running, study.convention)
    if abs(reached - share) > _TOLERANCE:
        raise ConfigError(
            f"row '{row.name}' asks for {share:.3f} of the uncompressed cost, but the nearest that"
            f" method '{row.method}' reaches at its published layers on backbone '{running.name}'"
            f" is {reached:.3f}"
        )
    shown = f"{knob:.0f}" if scale.whole else f"{knob:.3g}"
    return PlannedRow(scale.at(knob), f"{why}: {scale.words} {shown}")


def published_share(study: StudyTable, row: StudyRow) -> float | None:
    """Published cost over that of the uncompressed model; None where one is not given."""
    base = study.baseline(row)
    own = first_figure(study.published(row), "gflops")
    whole = None if base is None else first_figure(study.published(base), "gflops")
    return None if own is None or whole is None else own / whole


def published_speedup(study: StudyTable, row: StudyRow) -> float | None:
    """Published throughput over the uncompressed model's, or latency under it; None without."""
    base = study.baseline(row)
    if base is None:
        return None
    own, whole = study.published(row), study.published(base)
    rates = first_figure(own, "throughput_img_s"), first_figure(whole, "throughput_img_s")
    if rates[0] is not None and rates[1] is not None:
        return rates[0] / rates[1]
    times = first_figure(own, "latency_ms"), first_figure(whole, "latency_ms")
    same = own and whole and own[0].device == whole[0].device
    return times[1] / times[0] if same and times[0] and times[1] else None


def first_figure(figures: tuple[PublishedFigure, ...], name: str) -> float | None:
    return next((v for f in figures if (v := getattr(f, name)) is not None), None)


def _asked_share(study: StudyTable, row: StudyRow) -> tuple[float, str]:
    """(share of the uncompressed cost that a row is to have, where that is from)."""
    if row.share is not None:
        return row.share, f"a point of the curve at {row.share:.3g} of the cost"
    share = published_share(study, row)
    if share is not None:
        return share, f"not stated; found from the published cost, {share:.3f} of uncompressed"
    faster = published_speedup(study, row)
    if faster is not None:
        words = f"not stated, nor the cost; taken as 1/{faster:.3f} of it, the published speed-up"
        return 1.0 / faster, words
    raise ConfigError(
        f"the source states neither strength nor cost of row '{row.name}' of study '{study.name}'"
    )


def _scale(row: StudyRow, facts: BackboneFacts) -> _Scale:
    """The published default of a row's method, by its strength."""
    entry = default_entry(row.method)
    if entry is None:
        raise ConfigError(
            f"no default schedule of method '{row.method}' is known, so row '{row.name}' has no"
            " shape to find a strength of"
        )
    if "removed_per_block" in entry:
        stages = entry if "blocks" in entry else {"depth": facts.num_blocks}
        own = {**entry, "depth": stages["depth"], "patches": facts.num_patches}
        most = float(facts.num_patches)
        return _Scale(lambda r: _config(row, own | {"removed_per_block": round(r)}, facts), 0.0,
                      most, True, "r =")  # fmt: skip
    ratios = _default_ratios(entry, facts)
    fixed = {"method": row.method, "depth": facts.num_blocks, "patches": facts.num_patches}

    def powered(power: float) -> CompressionConfig:
        kept = {layer: ratio**power for layer, ratio in ratios.items()}
        return _config(row, fixed | {"keep_ratio": kept}, facts)

    return _Scale(powered, 0.0, _STRONGEST, False, "default keep ratios to the power of")


def _default_ratios(entry: Mapping[str, Any], facts: BackboneFacts) -> dict[int, float]:
    """Keep ratio at each layer of a default schedule."""
    return {
        r.layer: (r.num_keep or 1) / facts.num_patches
        for r in rescaled(entry, facts.num_blocks, facts.num_patches)
    }


def _config(row: StudyRow, entry: Mapping[str, Any], facts: BackboneFacts) -> CompressionConfig:
    reductions = rescaled(entry, facts.num_blocks, facts.num_patches)
    return pinned(CompressionConfig(row.method, reductions, row.options, positions=row.positions))


def _share(config: CompressionConfig, facts: BackboneFacts, convention: str) -> float:
    own: int = getattr(cost(facts, config), convention)
    whole: int = getattr(uncompressed(facts), convention)
    return own / whole


def _nearest(scale: _Scale, share_of: Callable[[CompressionConfig], float], asked: float) -> float:
    """The knob whose share of the cost is nearest to the one asked for."""
    low, high = scale.low, scale.high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        middle = float(round(middle)) if scale.whole else middle
        if middle in (low, high):
            break
        low, high = (middle, high) if share_of(scale.at(middle)) > asked else (low, middle)
    return min((low, high), key=lambda knob: abs(share_of(scale.at(knob)) - asked))
