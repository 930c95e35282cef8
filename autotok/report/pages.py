"""`pareto.png` and `report.html` of a finished run, drawn from what its folder keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from autotok.errors import RunDirectoryError, printable
from autotok.metrics import Metric
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import kept_result

from .fronts import axes_of, front_over, own_axes, volumes_by_trial
from .html import Report, write_report
from .plots import pareto_png
from .points import Point, limits_of
from .published_points import references
from .run import Run
from .run_maps import kept_maps
from .run_notes import careful_lines, kept_facts, kept_json
from .small_charts import course_line, token_bars
from .sources import device_notes, sources_of
from .tables import on_device_of
from .what_mattered import mattered_html


def write_again(run: Run) -> Run:
    """A finished run with its pareto.json, pareto.csv, pareto.png and report.html written anew,
    from its study and what else its folder keeps; no model, image or device is needed.

    Raises:
        RunDirectoryError: it is not finished, or in use.
    """
    folder = RunDirectory.open(run.directory)
    folder.claim()
    with folder.held(), folder.guarded():
        try:
            found = run.records()
        except RunDirectoryError:  # the file is gone or damaged: its study has it too
            kept = kept_result(folder)
            if kept is None:
                raise
            folder.write_json("pareto.json", kept)
            found = run.records()
        folder.write_records("pareto.csv", found["front"], further=found["comparisons"].columns)
        draw_pages(run)
    return run


def draw_pages(run: Run) -> None:
    """Write the picture and the page of a finished run."""
    found, question, asked = run.records(), run.question.to_dict(), run.asked
    points = [p for p in run.points() if p.kind != "trial" or p.feasible]
    title = printable(
        f"{run.question.named} on {question['data']}, budget {', '.join(question['budgets'])}"
    )
    x, y = axes_of(asked)
    picture, limits = run.directory / "pareto.png", limits_of(found["budgets"])
    pareto_png(picture, points, y, x=x, limits=limits, title=title)
    facts = kept_facts(run.directory)
    summary, maps = kept_maps(run.directory) if found["best"] else ("", [])
    best = run.directory / "best.yaml"
    best_of = found["best"].backbone if found["best"] else ""
    report = Report(
        title=title,
        command=run.command,
        points=points,
        metric=run.judged,
        budget="; ".join(b.echo for b in found["budgets"]),
        sources=sources_of(
            question.get("target"), found["front"], found["measuring"], question.get("batch")
        ),
        on_device=on_device_of([m.name for m in asked] + [b.metric for b in found["budgets"]]),
        environment={k: _in_words(v) for k, v in kept_json(run.directory / "env.json").items()},
        checks=facts.get("checks", {}),
        notes=[
            *([f"N{missing[1:]}."] if (missing := run.not_handed_over) else []),
            *facts.get("notes", ()),
            *([_volume(points, asked)] if found["front"] else []),
            *device_notes(question.get("target"), found["measuring"], question.get("batch")),
        ],
        config_yaml=best.read_text("utf-8") if found["best"] and best.is_file() else "",
        comparisons=found["comparisons"],
        no_smaller_image=found["no_smaller_image"],
        no_random_control=found["no_random_control"],
        careful=careful_lines(run.directory),
        axes=(x, y),
        asked=asked,
        charts=_charts(facts.get("tokens"), points, asked),
        mattered=_mattered(facts.get("mattered")),
        limits=limits,
        published=references(best_of or question["backbone"], question["data"], run.judged, (x, y)),
        maps=maps,
        maps_summary=summary,
    )
    write_report(run.directory / "report.html", report, picture=picture)


def _volume(points: Sequence[Point], asked: Sequence[Metric]) -> str:
    """The hypervolume of the run's own front, as a sentence."""
    return f"H{front_over(points, asked, own=own_axes(asked)).sentence[1:]}."


def _charts(tokens: Any, points: Sequence[Point], asked: Sequence[Metric]) -> list[str]:
    """How many tokens the best has where, and how the front grew; what is not known is left out."""
    charts = []
    with contextlib.suppress(LookupError, TypeError, ValueError, ArithmeticError):  # damaged
        rows = [[int(count) for count in tokens[key]] for key in ("attention", "mlp")]
        charts.append(token_bars(int(tokens["before"]), *rows))
    with contextlib.suppress(RunDirectoryError):  # nothing is known of an objective
        volumes = volumes_by_trial(points, asked)
        if len(volumes) > 1:
            names = " and ".join(m.label for m in asked)
            charts.append(
                course_line(
                    volumes,
                    "configurations evaluated",
                    f"hypervolume of the front over {names}, trials on few images included",
                )
            )
    return charts


def _mattered(kept: Any) -> str:
    """What mattered, as HTML; nothing where it is not known or damaged."""
    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        return mattered_html(kept or {})
    return ""


def _in_words(value: Any) -> str:
    """A value of env.json; packages as 'torch 2.13, timm 1.0'."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)
