"""What a dashboard shows of a trial and of the study: attributes, and notes in Markdown.

optuna-dashboard keeps the note of a trial, as of the study, in two kinds of system attributes of
the study: a version, and the text in parts of bounded length. They are written here by that layout,
so that notes are there whether or not the dashboard is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autotok.config import CompressionConfig, Subnet
from autotok.metrics import METRICS, ON_DEVICE
from autotok.pruned_spec import PrunedSpec

from .objective import Objective
from .record import Score, TrialRecord

_PART = 2045
"""Characters per part: the limit of a column in Optuna's databases."""
_CONVENTIONS = {
    "macs": "multiply-accumulates, attention products included",
    "macs-noattn": "multiply-accumulates, attention products left out",
    "flops2x": "two per multiply-accumulate, attention products included",
}
_PARAMETERS = {
    "budget_fraction": "cost asked for, as a share of the budget",
    "mode": "plug-in or retrain",
    "number_format": "number format",
    "exits": "where images may stop early",
    "exit_share": "how early images stop beside a reduction",
    "family": "kind of schedule",
    "first_layer": "first reduction layer",
    "num_stages": "number of stages",
    "spacing": "spread of the stages over the depth",
    "taper": "taper from stage to stage",
    "inflection": "early or late reduction",
    "subnet.embed_dim": "subnet's width",
    "subnet.depth": "subnet's depth",
}
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|])")


def note_entries(text: str, trial_id: int | None, version: int = 1) -> Iterator[tuple[str, Any]]:
    """(key, value) of the study's system attributes that hold a note; no trial: the study's own."""
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    yield f"{prefix}note_ver", version
    for index in range(0, len(text), _PART):
        yield f"{prefix}note_str:{index // _PART}", text[index : index + _PART]


def parameter_words(name: str) -> str:
    """What a parameter of a proposal is called where people read it."""
    return _PARAMETERS.get(name, name)


def attributes(record: TrialRecord) -> dict[str, Any]:
    """What is known of a trial when it starts."""
    config = record.config
    return {
        "number": record.number,
        "method": "" if config is None else config.method,
        "config": "" if config is None else json.dumps(config.to_dict()),
        "cost": {} if record.costs is None else record.costs.columns,
        "predicted": dict(record.predicted),
        "origin": record.origin,
    }


def trial_note(record: TrialRecord) -> str:
    """A finished trial in Markdown: what it is, costs and achieved, and where it was stopped."""
    lines = [f"### Trial {record.number}: {_title(record)}", ""]
    lines += [f"- **{name}**: {text}" for name, text in _facts(record) if text]
    return "\n".join(lines)


def study_note(config: Mapping[str, Any], objectives: Sequence[Objective]) -> str:
    """The question behind a study in Markdown, from the sections of config.yaml."""
    question, search = config.get("question") or {}, config.get("search") or {}
    lines = ["### What this search was asked", ""]
    shown = {name: question.get(name) for name in ("backbone", "checkpoint", "data", "target")}
    shown["search space"] = config.get("space") or question.get("space")
    lines += [f"- **{key}**: {_plain(value)}" for key, value in shown.items() if value]
    lines += [f"- **budget**: {_plain(echo)}" for echo in config.get("budgets") or ()]
    if question.get("flops_convention"):
        known = _CONVENTIONS.get(str(question["flops_convention"]), "")
        lines += [f"- **FLOPs in the budget** are {known}"] if known else []
    for objective in objectives:
        direction = "maximised" if objective.maximise else "minimised"
        lines.append(f"- **objective**: {_plain(objective.label)}, {direction}")
    forms = {"n_trials": "up to {} configurations", "timeout_s": "{} s", "sampler": "sampler {}"}
    forms["seed"] = "seed {}"
    effort = [
        form.format(_plain(search[k])) for k, form in forms.items() if search.get(k) is not None
    ]
    lines += ["- **effort**: " + ", ".join(effort)] if effort else []
    lines += [
        "",
        "One G multiply-accumulate is 1e9, counted per image with the attention products; the note"
        " of a trial gives the other conventions. The constraint is how far a trial is outside the"
        " budget, as a share of it: 0 or less is inside. 'Pruned' marks what cannot be inside; a"
        " trial that repeats a known configuration shows its values. Trials rest on few images;"
        " the final evaluation, on all of them, is in report.html of the run directory.",
    ]
    return "\n".join(lines)


def _title(record: TrialRecord) -> str:
    if record.config is None:
        return record.state
    mode = "fine-tuned" if record.tuned is not None else record.config.mode
    state = "" if record.state == "complete" else f", {record.state}"
    return f"{_plain(record.config.method)}, {mode}{state}"


def _facts(record: TrialRecord) -> Iterator[tuple[str, str]]:
    """(name, text); an empty text is left out."""
    config = record.config
    yield "quality", "" if record.score is None else _quality(record.score, record.fidelity)
    if config is not None:
        yield "patch tokens kept", _schedule(record, config)
        yield "options", ", ".join(f"{k} {_option(v)}" for k, v in sorted(config.options.items()))
        yield "subnet", "" if config.subnet is None else _subnet(config.subnet)
        yield "mode", _mode(record, config)
    yield "cost", "" if record.costs is None else _cost(record)
    texts = [METRICS[m].text(record.predicted[m]) for m in ON_DEVICE if m in record.predicted]
    yield "predicted on the target", ", ".join(texts)
    yield "budget", _budget(record)
    yield "stopped", _plain(record.stopped)
    yield "reason", _plain(record.reason)
    yield "proposed by", _plain(record.origin)
    yield "seconds", f"{record.seconds:.1f}" if record.seconds else ""


def _quality(score: Score, fidelity: str) -> str:
    metric = METRICS[score.metric]
    return (
        f"{metric.name} {metric.text(score.value)}, 95 % interval"
        f" {metric.number(score.low)} to {metric.number(score.high)}, on {score.num_images} images"
        f"{f' ({fidelity})' if fidelity else ''}"
    )


def _schedule(record: TrialRecord, config: CompressionConfig) -> str:
    counts: tuple[int | None, ...] = record.counts
    counts = counts or tuple(r.num_keep for r in config.reductions)
    layers = record.layers or tuple(r.layer for r in config.reductions)
    return ", ".join(
        f"{'by threshold' if count is None else count} after layer {layer}"
        for layer, count in zip(layers, counts, strict=False)
    )


def _option(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _plain(value)


def _subnet(subnet: Subnet) -> str:
    if isinstance(subnet, PrunedSpec):
        per_block = zip(subnet.blocks, subnet.heads, subnet.widths, strict=True)
        return ", ".join(f"block {b}: {len(h)} heads, MLP {w}" for b, h, w in per_block)
    heads = " ".join(map(str, subnet.heads))
    ratios = " ".join(f"{ratio:g}" for ratio in subnet.mlp_ratios)
    return f"width {subnet.embed_dim}, {subnet.depth} layers, heads {heads}, MLP ratios {ratios}"


def _mode(record: TrialRecord, config: CompressionConfig) -> str:
    if record.tuned is None:
        return config.mode
    tuned, base = record.tuned, record.base
    return (
        f"fine-tuned for {tuned['steps']} steps on {tuned['images']} images in"
        f" {tuned['seconds']:.0f} s, loss at the end {tuned['loss']:.4g}{_rate(tuned)}"
        f"{'' if base is None else f'; retrains trial {base}'}"
    )


def _rate(tuned: Mapping[str, Any]) -> str:
    """The learning rate and the state that was kept; records of before have neither."""
    found = tuned.get("evidence") or {}
    if not found:
        return ""
    return (
        f", lr {found['lr']:g} ({found['lr_reason']}), state of step {found['kept_step']} kept"
        f" ({found['kept_reason']})"
    )


def _cost(record: TrialRecord) -> str:
    assert record.costs is not None
    columns = record.costs.columns
    return (
        f"{columns['macs_g']:.4g} G multiply-accumulates ({columns['macs_noattn_g']:.4g} without"
        f" attention products, {columns['flops2x_g']:.4g} GFLOPs at two per multiply-accumulate),"
        f" {columns['params_m']:.4g} M parameters"
        f"{'' if record.macs_nominal is None else ', mean over the images judged'}"
    )


def _budget(record: TrialRecord) -> str:
    if record.config is None:
        return ""
    if record.violation > 0.0:
        return f"{100 * record.violation:.1f} % over"
    return "inside"


def _plain(value: Any) -> str:
    """Text from outside in one line, with nothing that Markdown or HTML would take as its own."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
