"""What a search says first and last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autotok.metrics import METRICS

from .app import console

if TYPE_CHECKING:
    from autotok.api.runs import Run

__all__ = ["announce", "closing_data", "front_data", "print_closing", "print_front"]


def announce(budgets: Sequence[str], convention: str) -> None:
    """The budget as understood, before anything is loaded."""
    from autotok.searching.space.budget import parse_budgets, resolve

    for request in parse_budgets(budgets, convention=convention):
        if request.relative:
            share = f"{100 * request.amount:g} % of the uncompressed model's {request.metric}"
            typer.echo(f"budget: {request.text} = {share}")
        else:
            typer.echo(f"budget: {resolve(request, {}).echo}")


def closing_data(run: Run) -> dict[str, Any]:
    """The final evaluation as plain data."""
    found = run.records()
    data: dict[str, Any] = {"directory": str(run.directory)}
    for key in ("best", "random_control", "reference"):
        data[key] = None if found[key] is None else found[key].row()
    data["front"] = [record.row() for record in found["front"]]
    data["comparisons"] = found["comparisons"].to_dict()
    data["measuring"] = found["measuring"]
    return data


def print_closing(run: Run) -> None:
    """The closing table, the control, and where everything lies."""
    from autotok.report.handover import device_notes, points_of, sources_of
    from autotok.report.sentences import control_sentence, standing_sentences, tuning_sentence
    from autotok.report.tables import closing_table, on_device_of
    from autotok.searching.records.objective import asked_metrics

    found = run.records()
    points = points_of(found)
    scored = [r.score for r in [*found["front"], found["reference"]] if r is not None and r.score]
    metric = METRICS[scored[0].metric if scored else "top1"]
    target = run.config["question"].get("target")
    sources = sources_of(target, found["front"], found["measuring"])
    screen = console()
    for budget in found["budgets"]:
        screen.print(f"budget: {budget.echo}", markup=False)
    objectives = asked_metrics(run.config["search"]["objectives"], metric.name)
    names = [m.name for m in objectives] + [b.metric for b in found["budgets"]]
    on_device = on_device_of(names)
    screen.print(closing_table(points, metric, sources=sources, on_device=on_device))
    lines = [control_sentence(points, metric), *standing_sentences(found["comparisons"], metric)]
    lines.append(tuning_sentence(found["comparisons"].tuning, metric))
    lines += device_notes(target, found["measuring"], run.config["question"].get("batch"))
    for line in lines:
        if line:
            screen.print(line, markup=False)
    if found["best"] is None:
        screen.print("nothing inside the budget could be evaluated; see trials.csv for the reasons")
    screen.print(f"run directory: {run.directory}", markup=False)
    screen.print(f"  {', '.join(_what_there_is(run.directory))}", markup=False)


def front_data(run: Run, x: str, y: str) -> dict[str, Any]:
    """The front over two metrics as plain data, and the picture of it."""
    found = run.front_over(x, y)
    names = [m.column for m in found.metrics]
    return {
        "directory": str(run.directory),
        "metrics": names,
        "front": [
            {"number": p.number, "method": p.method, "config_id": p.config_id, "kind": p.kind}
            | {"num_images": p.num_images, "origin": p.origin}
            | {m.column: p.value(m) for m in found.metrics}
            for p in found.points
        ],
        "hypervolume": found.volume,
        "reference": dict(zip(names, found.reference, strict=True)),
        "picture": str(run.picture_over(x, y)),
    }


def print_front(run: Run, x: str, y: str) -> None:
    """The front over two metrics: a table, its hypervolume, and where the picture lies."""
    from rich.table import Table
    from rich.text import Text

    found, screen = run.front_over(x, y), console()
    table = Table(pad_edge=False)
    heads = ["trial", "method", *(m.axis for m in found.metrics), "images"]
    for head in heads:
        table.add_column(
            Text(head), justify="left" if head == "method" else "right", overflow="fold"
        )
    for p in found.points:
        values = [m.number(p.value(m)) for m in found.metrics]
        table.add_row(str(p.number), Text(p.method), *values, str(p.num_images or "-"))
    screen.print(table)
    screen.print(found.sentence, markup=False)
    screen.print(f"picture: {run.picture_over(x, y)}", markup=False)


def _what_there_is(folder: Path) -> list[str]:
    """Files of a run to look at, of those that exist."""
    names = ("best.yaml", "best", "trials.csv", "pareto.csv", "pareto.png", "report.html")
    there = [name for name in names if (folder / name).exists()]
    content = "weights, ONNX" if (folder / "best" / "model.onnx").is_file() else "weights"
    return [f"best/ ({content})" if name == "best" else name for name in there]
