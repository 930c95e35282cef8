"""`autotok status | compare | report`: runs, while they go on and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import autotok

from .app import app, print_facts, print_json, print_table, show
from .options import JsonFlag, WideFlag
from .runs import print_closing

SHARED = "of both runs' objectives"
RunArgument = Annotated[Path, typer.Argument(help="Run directory.")]


@app.command("status")
def status_command(run: RunArgument, json: JsonFlag = False) -> None:
    """Say how far a run is, its best so far, and how to go on; it is not disturbed."""
    report = autotok.status_report(autotok.Run(run))
    show(report if json else {**report, "best": _words(report["best"])}, json)


@app.command("compare")
def compare_command(
    first: RunArgument,
    second: RunArgument,
    x: Annotated[
        str | None, typer.Option("--x", help="Fronts over this metric ...", show_default=SHARED)
    ] = None,
    y: Annotated[
        str | None, typer.Option("--y", help="... and this one.", show_default=SHARED)
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Compare two finished runs: fronts, hypervolumes, and the settings that differ."""
    found = autotok.compare_runs(autotok.Run(first), autotok.Run(second), x=x, y=y)
    if json:
        print_json(found)
        return
    fronts = [run["front"] for run in found["runs"]]
    rows = [
        [_words(front[line]) if line < len(front) else "" for front in fronts]
        for line in range(max(map(len, fronts)))
    ]
    title = f"fronts over {' and '.join(found['metrics'])}, best in the first of them first"
    title += "; trials on few images included" if found["trials_included"] else ""
    print_table(title, [run["run"] for run in found["runs"]], rows)
    for one in found["runs"]:
        print_facts({f"hypervolume of {one['run']}": one["hypervolume"]})
    differ = [[key, *values] for key, values in found["differ"].items()]
    if differ:
        print_table("settings that differ", ["setting", str(first), str(second)], differ)


@app.command("report")
def report_command(run: RunArgument, json: JsonFlag = False, wide: WideFlag = False) -> None:
    """Write tables, picture and page of a finished run again, without its model and images."""
    print_closing(autotok.write_again(autotok.Run(run)), json=json, wide=wide)


def _words(row: dict[str, Any] | None) -> str:
    """A configuration in a few words."""
    if row is None:
        return "none yet"
    return " ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "number"
    )
