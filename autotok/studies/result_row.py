"""One row of results.csv: what was published, what was planned, what came of it."""

from __future__ import annotations

from autotok.compression.schedule import realise
from autotok.counting.macs import cost, uncompressed
from autotok.devices.measurement import Measurement
from autotok.facts import BackboneFacts

from .row_models import JudgedRow
from .row_plan import PlannedRow, first_figure, published_share, published_speedup
from .study_folder import Result
from .study_table import PublishedFigure, StudyRow, StudyTable


def planned_result(
    study: StudyTable, row: StudyRow, facts: BackboneFacts, planned: PlannedRow | None
) -> Result:
    """What is known of a row before it runs; without its own figures where it cannot.

    Raises:
        ConfigError, IncompatibleMethod: its schedule cannot be on this backbone.
    """
    figures, base = study.published(row), study.baseline(row)
    base_figures = () if base is None else study.published(base)
    top1, whole = first_figure(figures, "top1"), first_figure(base_figures, "top1")
    result = {
        "row": row.name,
        "backbone": row.checkpoint_name,
        "method": row.method
        + ("" if row.positions == "carried" else f", positions {row.positions}"),
        "published_mode": "uncompressed" if row.method == "none" else row.mode,
        "published_cost_share": _text(published_share(study, row), 4),
        "published_top1_pct": _text(top1, 2),
        "published_relative_change_pct": _change(top1, whole),
        "published_speedup": _text(published_speedup(study, row), 3),
        "published_throughput_img_s": _text(first_figure(figures, "throughput_img_s"), 1),
        "published_latency_ms": _text(first_figure(figures, "latency_ms"), 2),
        "published_memory_mb": _text(first_figure(figures, "memory_mb"), 0),
        "published_on": _place(figures),
        "note": _notes(row, figures),
    }
    if planned is None:
        return result
    exact, full = cost(facts, planned.config), uncompressed(facts)
    share = getattr(exact, study.convention) / getattr(full, study.convention)
    kept = realise(planned.config, facts).by_layer
    return result | {
        "ran_on": facts.name,
        "schedule": ", ".join(f"{layer}:{count}" for layer, count in kept.items()),
        "schedule_from": planned.schedule_from,
        "macs_g": f"{getattr(exact, study.convention) / 1e9:.4f}",
        "cost_share": f"{share:.4f}",
        "params_m": f"{exact.params_m:.4f}",
    }


def with_quality(result: Result, study: StudyTable, row: StudyRow, judged: JudgedRow) -> Result:
    """The row with its own quality; costs that differ by image become their mean."""
    own, whole = judged.quality, judged.uncompressed
    found = {
        "run_as": _run_as(row, judged.steps),
        "metric": own.metric,
        "value": f"{own.value:.2f}",
        "low_95": f"{own.low:.2f}",
        "high_95": f"{own.high:.2f}",
        "num_images": str(own.num_images),
        "uncompressed": f"{whole.value:.2f}",
        "relative_change_pct": _change(own.value, whole.value),
    }
    mean = own.macs_mean if study.convention == "macs" else own.macs_noattn_mean
    if mean is not None:
        full = 1e9 * float(result["macs_g"]) / float(result["cost_share"])
        found |= {"macs_g": f"{mean / 1e9:.4f}", "cost_share": f"{mean / full:.4f}"}
    return result | found


def with_measurement(result: Result, found: Measurement) -> Result:
    """The row with its speed on this machine."""
    speedup = "1" if result["published_mode"] == "uncompressed" else _text(found.speedup, 3)
    return result | {
        "throughput_img_s": f"{found.throughput_img_s:.2f}",
        "speedup": speedup,
        "measured": found.source,
    }


def _run_as(row: StudyRow, steps: int) -> str:
    if row.method == "none":
        return "uncompressed"
    if steps:
        return f"fine-tuned, {steps} steps"
    return {
        "retrain": "plug-in, though published retrained",
        "unstated": "plug-in; the source does not say whether it was fine-tuned",
    }.get(row.mode, "plug-in")


def _place(figures: tuple[PublishedFigure, ...]) -> str:
    """'NVIDIA A6000, batch 128' of the first figure that was timed."""
    for figure in figures:
        if figure.device:
            batch = "" if figure.batch_size is None else f", batch {figure.batch_size:.0f}"
            return f"{figure.device}{batch}"
    return ""


def _change(value: float | None, base: float | None) -> str:
    """Per cent of the uncompressed model's."""
    return f"{100 * (value / base - 1):+.2f}" if value is not None and base else ""


def _notes(row: StudyRow, figures: tuple[PublishedFigure, ...]) -> str:
    """Training budget, remark, and what the figures came with, each said once."""
    said = [figure.note for figure in figures if figure.note]
    own = [text for text in (row.training, row.note) if text]
    return "; ".join(dict.fromkeys([*(t for t in own if not any(t in s for s in said)), *said]))


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
