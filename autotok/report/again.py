"""How a run is asked again, and how it is gone on with: a command, or why there is none."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotok.errors import printable
from autotok.names import text_of
from autotok.searching.running.question import Question
from autotok.searching.space.settings import SearchSettings

QUESTION_FLAGS = (
    *("target", "backbone", "checkpoint", "image_size", "data", "space", "quality", "evaluator"),
    *("flops_convention", "max_images", "train_data", "class_names", "subnet", "measure_on"),
    *("batch", "precision", "device"),
)
"""Fields of a question that are one flag of their name."""
LISTED = ("methods", "formats", "image_sizes")
"""Those whose flag takes a list with commas."""
SETTING_FLAGS = {
    "n_trials": "trials",
    "timeout_s": "timeout",
    "trial_timeout_s": "trial-timeout",
    "retrain_trials": "finetunes",
    "min_quality": "min-quality",
    "seed": "seed",
    "sampler": "sampler",
}
"""Fields of the settings, and their flags."""
ALWAYS = ("n_trials", "timeout_s", "seed", "sampler")
"""Settings that the command says though they are the usual ones."""
IN_PYTHON = (
    *("min_trials", "images_few", "images_more", "images_final", "front_size", "control_shapes"),
)
"""Settings without a flag."""
ASIDE = ("precision_why", "storage", "study")
"""What changes nothing of what is found: words, and where trials are kept."""


def search_again(
    question: Mapping[str, Any],
    settings: SearchSettings,
    *,
    embedded: bool = False,
    warm_start: tuple[str, ...] = (),
) -> str:
    """A command that asks the same question with the same effort; where there is none, a sentence
    that says why not.

    Args:
        question: `Question.to_dict()`.
        settings: The effort.
        embedded: Whether the model was a Python object.
        warm_start: Folders of the runs that it started from.
    """
    why_not = _objects(question, settings, embedded)
    usual = SearchSettings()
    own = [n for n in IN_PYTHON if getattr(settings, n) != getattr(usual, n)]
    if own:
        told = ", ".join(f"{name}={getattr(settings, name)}" for name in own)
        why_not.append(f"{told} can be asked for in Python only")
    if settings.join:
        why_not.append(f"it went on with what study '{settings.study}' held already")
    if why_not:
        return printable(
            f"No command asks this again: {'; '.join(why_not)}. Call autotok.search in Python with"
            " what config.yaml of the run says."
        )
    parts = ["autotok search", *_of_question(question), *_of_settings(settings)]
    parts += [f"--warm-start {shlex.quote(path)}" for path in warm_start]
    return printable(" ".join(parts))


def resume_again(
    folder: Path, question: Question, settings: SearchSettings, *, embedded: bool, more: str = ""
) -> str:
    """How a run is gone on with: a command with `more` flags, or the Python that it takes."""
    asked = {
        "model": embedded,
        "sampler": text_of(settings.sampler).startswith("<"),
        "evaluator": (question.evaluator or "").startswith("<"),
    }
    objects = [name for name, given in asked.items() if given]
    if not objects:
        return f"autotok resume {shlex.quote(str(folder))}{more}"
    given = ", ".join(f"{name}={name}" for name in objects)
    return (
        f"in Python, with the {' and the '.join(objects)} that it began with:"
        f" autotok.resume({str(folder)!r}, {given})"
    )


def _objects(question: Mapping[str, Any], settings: SearchSettings, embedded: bool) -> list[str]:
    """What was a Python object, in clauses."""
    found = ["the model was a Python object"] if embedded else []
    named = {"sampler": text_of(settings.sampler), "evaluator": question.get("evaluator") or ""}
    return found + [f"the {k} was a Python object" for k, v in named.items() if v.startswith("<")]


def _of_question(question: Mapping[str, Any]) -> list[str]:
    plain = vars(Question())
    several = question.get("backbones") or ()
    parts = [f"--backbone {shlex.quote(name)}" for name in several]
    flags = [key for key in QUESTION_FLAGS if key != "batch" or _asks_devices(question)]
    for key in flags:
        value = question.get(key)
        if value is not None and value != plain[key] and not (key == "backbone" and several):
            parts.append(f"--{key.replace('_', '-')} {shlex.quote(str(value))}")
    for key in LISTED:
        if question.get(key):
            listed = ",".join(map(str, question[key]))
            parts.append(f"--{key.replace('_', '-')} {shlex.quote(listed)}")
    return parts + [f"--budget {shlex.quote(text)}" for text in question["budgets"]]


def _asks_devices(question: Mapping[str, Any]) -> bool:
    """Whether a batch means something: without a target or a device the command refuses one."""
    return question.get("target") is not None or question.get("measure_on") not in (None, "none")


def _of_settings(settings: SearchSettings) -> list[str]:
    usual = SearchSettings()
    parts = []
    if settings.objectives != usual.objectives:
        parts = [f"--objective {shlex.quote(name)}" for name in settings.objectives]
    for name, flag in SETTING_FLAGS.items():
        value = getattr(settings, name)
        if name in ALWAYS or value != getattr(usual, name):
            parts.append(f"--{flag} {shlex.quote(_written(value))}")
    return parts


def _written(value: Any) -> str:
    """A number without needless digits, a sampler by name; no time limit is 0."""
    if isinstance(value, (int, float)) or value is None:
        return f"{value or 0:.12g}"
    return text_of(value)
