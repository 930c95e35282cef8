"""What a search says first and last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .app import console

if TYPE_CHECKING:
    from autotok.api.runs import Run

__all__ = ["announce", "closing_data", "print_closing"]


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
    from autotok.report.points import metric_of
    from autotok.report.sentences import control_sentence, standing_sentences, tuning_sentence
    from autotok.report.tables import closing_table

    found = run.records()
    points = points_of(found)
    scored = [r.score for r in [*found["front"], found["reference"]] if r is not None and r.score]
    metric = metric_of(scored[0].metric if scored else "top1")
    target = run.config["question"].get("target")
    sources = sources_of(target, found["front"], found["measuring"])
    screen = console()
    for budget in found["budgets"]:
        screen.print(f"budget: {budget.echo}", markup=False)
    screen.print(closing_table(points, metric, sources=sources))
    lines = [control_sentence(points, metric), *standing_sentences(found["comparisons"], metric)]
    lines.append(tuning_sentence(found["comparisons"].tuning, metric))
    lines += device_notes(target, found["measuring"])
    for line in lines:
        if line:
            screen.print(line, markup=False)
    if found["best"] is None:
        screen.print("nothing inside the budget could be evaluated; see trials.csv for the reasons")
    screen.print(f"run directory: {run.directory}", markup=False)
    screen.print(f"  {', '.join(_what_there_is(run.directory))}", markup=False)


def _what_there_is(folder: Path) -> list[str]:
    """Files of a run to look at, of those that exist."""
    names = ("best.yaml", "best", "trials.csv", "pareto.csv", "pareto.png", "report.html")
    there = [name for name in names if (folder / name).exists()]
    content = "weights, ONNX" if (folder / "best" / "model.onnx").is_file() else "weights"
    return [f"best/ ({content})" if name == "best" else name for name in there]
