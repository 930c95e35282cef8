"""What a search says first and last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autotok.metrics import ON_DEVICE
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.budget import BudgetRequest, resolve

from .headline import slower_sentence
from .points import points_of
from .run import Run
from .run_notes import careful_lines, kept_facts, no_file_lines
from .sentences import (
    control_sentence,
    other_backbone_sentences,
    smaller_image_sentence,
    standing_sentences,
    tuning_sentence,
)
from .sources import device_notes, predicted_for, sources_of
from .tables import closing_table, on_device_of

if TYPE_CHECKING:
    from rich.table import Table


def budget_lines(requests: Sequence[BudgetRequest]) -> list[str]:
    """The budgets as understood, before anything is loaded."""
    lines = []
    for request in requests:
        if request.relative:
            model = request.backbone or "the uncompressed model"
            share = f"{100 * request.amount:g} % of {model}'s {request.metric}"
            share += ", uncompressed" if request.backbone else ""
            lines.append(f"budget: {request.text} = {share}")
        else:
            lines.append(f"budget: {resolve(request, {}).echo}")
    return lines


def closing_data(run: Run) -> dict[str, Any]:
    """The final evaluation as plain data."""
    found = run.records()
    data: dict[str, Any] = {"directory": str(run.directory)}
    for key in ("best", "random_control", "smaller_image", "reference"):
        data[key] = None if found[key] is None else _nested(found[key])
    data["no_files"] = kept_facts(run.directory).get("no_files") or {}
    for why in ("no_smaller_image", "no_random_control"):
        data[why] = found[why]
    data["careful"] = careful_lines(run.directory)
    if found["others"]:
        data["others"] = [_nested(record) for record in found["others"]]
    data["front"] = [_nested(record) for record in found["front"]]
    data["comparisons"] = found["comparisons"].to_dict()
    data["measuring"] = found["measuring"]
    data["predicted_for"] = _predicted_for(run)
    return data


def closing_parts(run: Run, *, wide: bool = False) -> list[str | Table]:
    """What is printed at the end: budgets, the closing table, the control, where everything is."""
    found = run.records()
    points = points_of(found)
    metric, target = run.judged, run.question.target
    sources = sources_of(target, found["front"], found["measuring"], run.question.batch)
    names = [m.name for m in run.asked] + [b.metric for b in found["budgets"]]
    on_device = on_device_of(names)
    parts: list[str | Table] = [f"budget: {budget.echo}" for budget in found["budgets"]]
    parts.append(closing_table(points, metric, sources=sources, on_device=on_device, wide=wide))
    lines = [control_sentence(points, metric, found["no_random_control"])]
    lines += [*careful_lines(run.directory), slower_sentence(points)]
    lines.append(smaller_image_sentence(points, metric, found["no_smaller_image"]))
    lines += other_backbone_sentences(points, metric)
    lines += standing_sentences(found["comparisons"], metric)
    lines.append(tuning_sentence(found["comparisons"].tuning, metric))
    lines += device_notes(target, found["measuring"], run.question.batch)
    parts += filter(None, lines)
    if found["best"] is None:
        parts.append("nothing inside the budget could be evaluated; see trials.csv for the reasons")
    parts += filter(None, [run.not_handed_over])
    parts += [f"run directory: {run.directory}", f"  {', '.join(_what_there_is(run.directory))}"]
    parts += no_file_lines(run.directory)
    return parts


def _predicted_for(run: Run) -> dict[str, Any] | None:
    """What the run's predictions are of."""
    return predicted_for(run.question.target, run.records()["measuring"], run.question.batch)


def _nested(record: TrialRecord) -> dict[str, Any]:
    """A record's row with its configuration as data, not as text."""
    config = None if record.config is None else record.config.to_dict()
    return {**record.row(), "config": config}


def front_data(run: Run, x: str, y: str) -> dict[str, Any]:
    """The front over two metrics as plain data, and the picture of it."""
    found = run.front_over(x, y)
    names = [m.column for m in found.metrics]
    return {
        "directory": str(run.directory),
        "metrics": names,
        "front": [
            {"number": p.number, "method": p.method, "config_id": p.config_id, "kind": p.kind}
            | ({"details": p.details} if p.details else {})
            | ({"backbone": p.backbone} if p.backbone else {})
            | {"num_images": p.num_images, "origin": p.origin}
            | {m.column: p.value(m) for m in found.metrics}
            for p in found.points
        ],
        "hypervolume": found.volume,
        "trials_included": found.with_trials,
        "reference": dict(zip(names, found.reference, strict=True)),
        "picture": str(run.picture_over(x, y)),
        "predicted_for": _predicted_for(run),
    }


def front_parts(run: Run, x: str, y: str) -> list[str | Table]:
    """What is printed of the front over two metrics: a table, its hypervolume, the picture."""
    from rich.table import Table
    from rich.text import Text

    found = run.front_over(x, y)
    table = Table(pad_edge=False)
    for head in ("trial", "method", *(m.axis for m in found.metrics), "images"):
        side: Literal["left", "right"] = "left" if head == "method" else "right"
        table.add_column(Text(head), justify=side, overflow="fold")
    for p in found.points:
        values = [m.number(p.value(m)) for m in found.metrics]
        table.add_row(str(p.number), Text(p.called), *values, str(p.num_images or "-"))
    notes = device_notes(run.question.target, run.records()["measuring"], run.question.batch)
    told = notes if any(m.name in ON_DEVICE for m in found.metrics) else []
    return [table, found.sentence, *told, f"picture: {run.picture_over(x, y)}"]


def _what_there_is(folder: Path) -> list[str]:
    """Files of a run to look at, of those that exist."""
    names = ("best.yaml", "best", "trials.csv", "pareto.csv", "pareto.png", "report.html")
    there = [name for name in names if (folder / name).exists()]
    content = "weights, ONNX" if any((folder / "best").glob("model*.onnx")) else "weights"
    return [f"best/ ({content})" if name == "best" else name for name in there]
