"""table.md: own rows beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence

from .study_folder import NOT_TIMED, OK, Result, StudyQuestion
from .study_table import StudyTable

_HEADS = (
    "row", "run as", "cost", "cost published", "quality (95 % interval)", "relative change",
    "top-1 published", "relative change published",
)  # fmt: skip
_SPEED_HEADS = ("speed-up here", "speed-up published")


def first_line(study: StudyTable, asked: StudyQuestion) -> str:
    """What runs on what, and what may be compared with what was published."""
    if asked.stand_in:
        return (
            f"{study.name} on the built-in demo: {asked.stand_in} stands in for every published"
            " backbone, so own figures do not compare with the published ones in absolute terms;"
            " relative drop and share of the cost do"
        )
    return f"{study.name} on {asked.data}"


def study_markdown(study: StudyTable, asked: StudyQuestion, results: Sequence[Result]) -> str:
    """The table, then where every schedule is from, and what did not run."""
    speeds = bool(study.measured)
    heads = (*_HEADS, *(_SPEED_HEADS if speeds else ()))
    lines = [
        f"# {study.title}",
        "",
        f"{first_line(study, asked)}.",
        "",
        f"Source: {study.source}. {asked.num_images} images at most; costs are shares of the"
        f" uncompressed model{_counted(study)}; relative changes are per cent of the quality of"
        " the uncompressed model, own ones on the same images.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(_cells(result, speeds)) + " |" for result in results),
        "",
    ]
    for remark in study.remarks:
        lines += [f"- {remark}"]
    lines += _listed("Schedules (layer:patch tokens kept)", results, _schedule)
    lines += _listed("Not run", results, lambda r: "" if r["status"] == OK else r["status"])
    lines += _listed("Not timed", results, lambda r: r.get("note", "").partition(NOT_TIMED)[2])
    lines += _listed("Published with", results, _published_with)
    timed = next((r["measured"] for r in results if r.get("measured")), "")
    lines += ["", f"Speed here: {timed}."] if timed else []
    return "\n".join(lines).rstrip() + "\n"


def _counted(study: StudyTable) -> str:
    words = "attention products left out" if study.convention == "macs_noattn" else "all products"
    return f" in multiply-accumulates as the source counts them ({words})"


def _cells(result: Result, speeds: bool) -> list[str]:
    interval = ""
    if result.get("value"):
        interval = "{value} [{low_95}, {high_95}] {metric}".format(**result)
    ran = result["status"] == OK
    names = ["cost_share", "published_cost_share"]
    judged = ["relative_change_pct", "published_top1_pct", "published_relative_change_pct"]
    timed = ["speedup", "published_speedup"] if speeds else []
    return [
        result["row"],
        result.get("run_as", "") if ran else "not run",
        *(_or_dash(result, name) for name in names),
        interval or "-",
        *(_or_dash(result, name) for name in (*judged, *timed)),
    ]


def _or_dash(result: Result, name: str) -> str:
    return result.get(name) or "-"


def _schedule(result: Result) -> str:
    kept, whence = result.get("schedule", ""), result.get("schedule_from", "")
    return f"{kept} ({whence})" if kept else ""


def _published_with(result: Result) -> str:
    return result.get("note", "").partition(NOT_TIMED)[0].removesuffix("; ")


def _listed(title: str, results: Sequence[Result], words: object) -> list[str]:
    """A list of what is to be said of rows, those that share it together."""
    assert callable(words)
    said: dict[str, list[str]] = {}
    for result in results:
        text = words(result).removeprefix("not run: ")
        if text:
            said.setdefault(text, []).append(result["row"])
    entries = [f"- {', '.join(rows)}: {text}" for text, rows in said.items()]
    return ["", f"{title}:", "", *entries] if entries else []
