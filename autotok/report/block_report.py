"""Where the time goes: tokens, cost, time and memory of every block, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from autotok.backbones.base import evaluating
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.devices.block_times import block_times, operator_shares
from autotok.predicting.block_figures import BlockFigures, ModelFigures, model_figures
from autotok.predicting.target import load_target

LOCAL = "local"


def block_report(
    model: CompressedViT, *, target: str | Path | None, measure_on: str | None, batch: int
) -> dict[str, Any]:
    """Plain data: of every block the figures now, and under `uncompressed` those before, with the
    number that the block had there.

    Times are measured in eager torch on this machine alone: exported files have no blocks.
    """
    whole = model.original.whole
    plain = compress_backbone(whole, CompressionConfig())
    on = None if target is None else load_target(target)
    compressed = bool(model.config.reductions) or model.backbone is not whole
    models = [model, plain] if compressed else [model]
    found = [model_figures(one, on, batch=batch) for one in models]
    timed, shares = _measured(models, batch) if measure_on == LOCAL else ([None] * len(models), [])
    sides = [_rows(*given) for given in zip(models, found, timed, strict=True)]
    rows = sides[0]
    if compressed:
        for row, was in zip(rows, _counterparts(model, sides[1]), strict=True):
            row["uncompressed"] = was
    report: dict[str, Any] = {"blocks": rows, "peak_block": _name(model, found[0].peak)}
    report["peak_live_mb"] = round(found[0].peak.live_mb, 2)
    if compressed:
        report["peak_block_uncompressed"] = _name(plain, found[1].peak)
        report["peak_live_mb_uncompressed"] = round(found[1].peak.live_mb, 2)
        own, before = (figures.latency_ms for figures in found)
        if own is not None and before is not None:
            report["predicted_uncompressed_ms"] = round(before, 3)
            report["predicted_speedup"] = round(before / own, 3)
    return report | _by_class(found) | _named("measured_share_pct_by_operator", shares, 1)


def _counterparts(
    model: CompressedViT, before: Sequence[dict[str, Any]]
) -> Sequence[dict[str, Any]]:
    """The uncompressed model's rows of the blocks that pruning kept, embedding and read-out."""
    pruned = model.backbone.pruned
    if pruned is None:
        return before
    return [before[0], *(before[1 + index] for index in pruned.blocks), before[-1]]


def _by_class(found: Sequence[ModelFigures]) -> dict[str, Any]:
    """Predicted milliseconds of each class of operator, and what the target waits for."""
    if not found[0].by_class:
        return {}
    report = _named("predicted_ms_by_operator", [figures.by_class for figures in found], 3)
    if found[0].bound_by:
        report["predicted_bound_by"] = found[0].bound_by
    return report


def _named(name: str, found: Sequence[Mapping[str, float]], digits: int) -> dict[str, Any]:
    """Figures now and, where there are some, before."""
    names = (name, f"{name}_uncompressed")
    return {
        key: {kind: round(value, digits) for kind, value in figures.items()}
        for key, figures in zip(names, found, strict=False)
    }


def _measured(
    models: Sequence[CompressedViT], batch: int
) -> tuple[Sequence[tuple[float, ...] | None], list[dict[str, float]]]:
    """Of every model, milliseconds of its blocks and shares of classes of operator."""
    like, facts = next(models[0].parameters()), models[0].backbone.own_facts
    images = torch.randn(batch, *facts.image_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(like)
    with evaluating(*models):
        return block_times(models, images), [operator_shares(model, images) for model in models]


def _rows(
    model: CompressedViT, found: ModelFigures, timed: tuple[float, ...] | None
) -> list[dict[str, Any]]:
    rows, schedule = [], model.schedule
    initial = model.backbone.facts.num_patches
    for number, figures in enumerate(found.blocks):
        within = 0 <= figures.block < len(schedule.attention)
        last = schedule.readout if figures.block >= 0 else initial
        row: dict[str, Any] = {
            "block": _name(model, figures),
            "tokens_in_attention": schedule.attention[figures.block] if within else last,
            "tokens_in_mlp": schedule.mlp[figures.block] if within else last,
            "macs_g": round(figures.macs / 1e9, 4),
            "live_mb": round(figures.live_mb, 2),
        }
        if figures.predicted_ms is not None:
            row["predicted_ms"] = round(figures.predicted_ms, 3)
        if timed is not None:
            row["measured_ms"] = round(timed[number], 3)
        rows.append(row)
    return rows


def _name(model: CompressedViT, figures: BlockFigures) -> str:
    if figures.block < 0:
        return "embedding"
    depth = model.backbone.facts.num_blocks
    return str(figures.block) if figures.block < depth else "read-out"


def block_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of cells): figures now and, in brackets, those of the uncompressed model."""
    columns = {
        "macs_g": ("GFLOPs", 2 if report["macs_g"] >= 1 else 4),
        "predicted_ms": ("predicted ms", 1),
        "measured_ms": ("measured ms", 1),
        "live_mb": ("live MB", 1),
    }
    blocks = report["blocks"]
    used = {key: told for key, told in columns.items() if key in blocks[0]}
    rows = []
    for block in blocks:
        attention, mlp = block["tokens_in_attention"], block["tokens_in_mlp"]
        tokens = str(attention) if attention == mlp else f"{attention}, {mlp}"
        cells = [
            _cell(block[key], block.get("uncompressed", {}).get(key), digits)
            for key, (_, digits) in used.items()
        ]
        name, was = block["block"], block.get("uncompressed", {}).get("block")
        named = name if was in (None, name) else f"{name} ({was})"
        rows.append([named, tokens, *cells])
    return ["block", "tokens", *(head for head, _ in used.values())], rows


def _cell(now: float, before: float | None, digits: int) -> str:
    own = f"{now:.{digits}f}"
    return own if before is None else f"{own} ({before:.{digits}f})"
