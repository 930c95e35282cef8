"""How a run went, in sentences that its folder keeps: notes, checks, what files are not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotok.export.readme import export_verdict
from autotok.facts import BackboneFacts
from autotok.metrics import METRICS
from autotok.searching.records.rundir import FINISHED_FILE
from autotok.searching.running.race import is_of_use
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.problem import COUNTED_IMAGES


def kept_facts(folder: Path) -> dict[str, Any]:
    """What the hand-over wrote down; nothing where an earlier version did not, or it is gone."""
    return kept_json(folder / FINISHED_FILE)


def kept_json(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; nothing where there is none, or it is damaged."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def careful_of(result: SearchResult, facts: BackboneFacts) -> list[str]:
    """What is wrong with the quality of the best, in sentences: it is not what was asked for at
    least, or no better than guessing; the log said so when the finalists were chosen."""
    best, least = result.best, result.settings.min_quality
    if best is None or best.score is None:
        return []
    metric, score, lines = METRICS[best.score.metric], best.score, []
    has = f"the best has {metric.text(score.value)} on {score.num_images} images"
    if least is not None and not metric.holds(score.value, least):
        asked = f"the least quality asked for, {metric.text(least)} (--min-quality)"
        lines.append(f"NOT AS GOOD AS ASKED: {has}, worse than {asked}")
    if not is_of_use(score, facts, None):
        guessed = metric.text(metric.guessing(facts.num_classes))
        lines.append(
            f"NO BETTER THAN GUESSING, within noise: {has}, and answers drawn evenly among"
            f" {facts.num_classes} classes have {guessed}"
        )
    return lines


def careful_lines(folder: Path) -> list[str]:
    """The same of a run's folder."""
    kept = kept_facts(folder).get("careful")
    return [str(line) for line in kept] if isinstance(kept, list) else []


def no_files(exports: Mapping[str, Any]) -> dict[str, str]:
    """By format, why there is no file of it and what makes one."""
    return {name: _no_file(found) for name, found in exports.items() if "error" in found}


def no_file_lines(folder: Path) -> list[str]:
    """The same of a run's folder, in sentences."""
    kept = kept_facts(folder).get("no_files")
    found = kept if isinstance(kept, Mapping) else {}
    return [f"no {name} file, {why}" for name, why in found.items()]


def _no_file(found: Mapping[str, Any]) -> str:
    return f"{'left out' if found.get('left_out') else 'failed'}: {found['error']}"


def checks_of(result: SearchResult, exports: Mapping[str, Any]) -> dict[str, str]:
    """What was checked at the end and how that went, by name."""
    inside = sum(r.within_budget is True for r in result.front)
    ran = any(r.macs_nominal is not None for r in result.front)
    where = f", on {COUNTED_IMAGES} images where the count depends on the image" if ran else ""
    checks = {
        "independent count": f"{inside} of {len(result.front)} configurations of the front are"
        f" within the budget by the counter that runs the model on the meta device{where}"
    }
    for name, found in exports.items():
        if "error" in found:
            checks[f"{name} export"] = _no_file(found)
        else:
            on = found.get("checked_on", "images")
            checks[f"{name} export"] = (
                f"{export_verdict(found)} on {found['num_images']} {on}, largest difference"
                f" {found['max_abs_diff']:.1e}, {found['runtime']}"
            )
            if found.get("parts"):
                checks[f"{name} export"] += (
                    f"; {len(found['parts'])} graphs, which stop as torch does on"
                    f" {found['same_stop_pct']:g} % of the images"
                )
            if found.get("own_sensitivity") is not None:
                checks[f"{name} export"] += (
                    f"; torch differs from itself by {found['own_sensitivity']:.1e} when the input"
                    " moves by a millionth"
                )
    return checks


def notes_of(result: SearchResult, plug_in_only: str | None) -> list[str]:
    """What a page says of how it was searched, in sentences; `plug_in_only` is why nothing could
    be retrained."""
    evaluated = [r for r in result.records if r.evaluated]
    failed = sum(r.state == "failed" for r in result.records)
    notes = [
        f"{len(evaluated)} different configurations were evaluated in {result.seconds:.0f} s, on"
        f" {result.plan.few} images each and on {result.plan.more} where nothing dominated them;"
        f" {_final_images(result)}."
    ]
    if result.workers:
        notes.append(f"{result.workers}.")
    if failed:
        notes.append(f"{failed} trials failed; trials.csv gives the reasons.")
    if result.final.outside:
        shown = next((r for r in result.final.outside if r.reason), result.final.outside[0])
        notes.append(
            f"{len(result.final.outside)} finalists turned out to be outside the budget and were"
            f" left out, such as trial {shown.number}: {shown.reason or 'by the second count'}."
        )
    if result.no_finetune:
        notes.append(f"{result.no_finetune[0].upper()}{result.no_finetune[1:]}.")
    if plug_in_only is not None:
        notes.append(f"Nothing could be retrained: {plug_in_only}.")
    return notes


def _final_images(result: SearchResult) -> str:
    """On how many images the last were judged: whoever left the race early has fewer."""
    final = result.final
    judged = [*final.front, *final.controls, *final.others, final.smaller_image, final.reference]
    counts = {r.score.num_images for r in judged if r is not None and r.score is not None}
    told = "the front, the controls and the uncompressed model on"
    if len(counts) == 1:
        return f"{told} {counts.pop()}"
    return f"{told} up to {max(counts, default=result.plan.final)}, each row says its own"
