"""Methods and targets described as plain rows."""

from __future__ import annotations

from typing import Any

from autotok.backbones.family import FAMILIES
from autotok.backbones.loading import backbone_facts
from autotok.methods import get_method, list_methods, unmet_need
from autotok.plain_data import plain_fields
from autotok.predicting.target import Target, load_target
from autotok.predicting.target_parts import CalibrationRecord


def describe_methods(backbone: str | None = None) -> list[dict[str, str]]:
    """One row per registered method, from its declarations; with a backbone, whether it fits."""
    facts = None if backbone is None else backbone_facts(backbone)
    rows = []
    for name in list_methods():
        method = get_method(name)
        row = {
            "method": name,
            "paper": method.title,
            "kind": method.kind.value,
            "acts": method.placement.value,
            "training": method.training_need.value,
            "count": method.count.value,
            "options": ", ".join(f"{o.name}={o.default}" for o in method.options),
        }
        if facts is not None:
            need = unmet_need(method, facts)
            notes = "; ".join(method.notes(facts, method.resolve_options({})))
            row["fits"] = f"no: needs {need}" if need else f"yes ({notes})" if notes else "yes"
        rows.append(row)
    return rows


def methods_markdown() -> str:
    """The table of methods in Markdown, from the registry alone."""
    lines = ["| method | paper | kind | acts | training | count |", "|---|---|---|---|---|---|"]
    for row in describe_methods():
        if get_method(row["method"]).__module__.startswith("autotok."):
            cells = [f"`{row['method']}`", row["paper"], row["kind"], row["acts"]]
            lines.append("| " + " | ".join([*cells, row["training"], row["count"]]) + " |")
    return "\n".join(lines) + "\n"


def backbones_markdown() -> str:
    """The table of what runs in Markdown, from the families' own words."""
    lines = ["| what runs | ask for it as |", "|---|---|"]
    for family in FAMILIES:
        if family.about and type(family).__module__.startswith("autotok."):
            lines.append(f"| {family.about} | {family.ask} |")
    return "\n".join(lines) + "\n"


def target_row(name: str) -> dict[str, str]:
    """A target in a line: what it is, what its predictions are of, what they were held against."""
    from autotok.predicting.predict import conditions

    target = load_target(name)
    points = len(target.checked_against)
    return {
        "target": name,
        "title": target.title,
        "predictions_of": conditions(target),
        "checked": f"{points} published or measured points" if points else "never checked",
    }


def describe_target(name: str) -> dict[str, Any]:
    """A target's numbers with their sources, its notes, and its predictions against every known
    point; of a calibrated one, what its calibration said of the configurations it kept aside.

    These were fitted as well in the end, so that their errors today check nothing.
    """
    from autotok.predicting.predict import check_points, conditions  # timm too: methods need none

    target = load_target(name)
    record = target.calibration
    points = [
        {
            "point": row.point.label,
            "metric": row.point.metric,
            "published": row.published,
            "predicted": round(row.predicted, 2),
            "error_pct": round(row.error_pct, 1),
            "role": row.point.role if record is None else "kept aside, then fitted",
            "source": row.point.source,
            "note": row.point.note,
        }
        for row in check_points(target)
    ]
    if record is not None:
        summary = f"{len(points)} points kept aside, then fitted; {_of_calibration(record)}"
        return _described(target, conditions(target), points, summary)
    held_out = [p for p in points if p["role"] == "held out"]
    summary = f"{len(points)} points, {len(held_out)} of them held out"
    if held_out:
        worst = max(abs(float(str(p["error_pct"]))) for p in held_out)
        summary += f"; largest error at a held-out point {worst:.1f} %"
    elif points:
        summary += ": the coefficients were made from all of them, so their errors check nothing"
    return _described(target, conditions(target), points, summary)


def _of_calibration(record: CalibrationRecord) -> str:
    """In words, how the fit did that had not seen them."""
    rank, memory = record.rank_correlation, record.memory_worst_pct
    told = "never checked" if memory is None else f"errors up to {memory:g} %"
    return (
        f"before that, {record.within_5_pct:g} % of {record.held_out} were within 5 %,"
        f" {record.within_10_pct:g} % within 10 %, the worst off by {record.worst_pct:g} %, rank"
        f" correlation {'unknown' if rank is None else f'{rank:g}'}, at batch {record.batch};"
        f" memory {told}"
    )


def _described(
    target: Target, of: str, points: list[dict[str, Any]], summary: str
) -> dict[str, Any]:
    record = target.calibration
    return {
        "name": target.name,
        "title": target.title,
        "predictions_of": of,
        "numbers": [
            {"what": what, "value": number.value, "source": number.source}
            for what, number in target.numbers()
        ],
        "points": points,
        "summary": summary,
        "calibration": None if record is None else plain_fields(record),
        "notes": list(target.notes),
    }
