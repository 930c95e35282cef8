"""A page about one method, from its declarations, its docstrings and the tables beside it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from typing import Any

from autotok.backbones.loading import backbone_facts
from autotok.errors import UnknownName
from autotok.facts import BackboneFacts
from autotok.methods import get_method, list_methods, unmet_need
from autotok.methods.base import Option, Placement, TokenReducer
from autotok.methods.evidence import held_to, not_built, published_results
from autotok.methods.learning import recipe_of
from autotok.methods.observing import observed_needs
from autotok.methods.published import published_schedules
from autotok.methods.registry import requirements
from autotok.methods.two_pass import TwoPass
from autotok.metrics import METRICS
from autotok.tokens import Needs

EXAMPLE = "deit_small_patch16_224"
"""Whose block and patch counts a page is written for, unless another backbone is named."""
SIGNALS = {
    Needs.KEYS: "attention keys",
    Needs.QUERIES: "attention queries",
    Needs.VALUES: "attention values",
    Needs.CLS_ATTENTION: "the class token's attention row",
    Needs.COLUMN_MEANS: "attention each token receives (whole map)",
    Needs.ATTENTION: "the whole attention map",
    Needs.GRID: "grid positions",
    Needs.EMBEDDING: "patch embeddings and position table",
    Needs.IMAGE: "the image",
    Needs.NORMED: "normalised tokens",
    Needs.CLS_QUERY: "the class token's query",
    Needs.HEAD_OUTPUTS: "attention output per head",
}
DEPARTURES = re.compile(r"\bDepartures\b[^:.]*:")
UNITS = (
    ("gflops", "GFLOPs"),
    *((m, METRICS[m].unit) for m in ("throughput_img_s", "latency_ms")),
    ("memory_mb", METRICS["peak_memory_mb"].unit),
    ("params_m", METRICS["params"].unit),
)
"""Columns of the published numbers beside the accuracy."""


def describe_method(name: str, backbone: str | None = None) -> dict[str, Any]:
    """Everything a page about a method says, as plain data.

    Args:
        name: A registered method, or one that autotok is known not to have.
        backbone: The model that ranges and schedules are given for; `EXAMPLE` by default.

    Raises:
        UnknownName: neither is known.
    """
    missing = {entry.name: entry for entry in not_built()}
    if name not in list_methods() and name in missing:
        results = [dataclasses.asdict(row) for row in published_results(name)]
        return {**dataclasses.asdict(missing[name]), "built": False, "published_results": results}
    if name not in list_methods():
        raise UnknownName("method", name, [*list_methods(), *missing])
    method, facts = get_method(name), backbone_facts(backbone or EXAMPLE)
    passes = 2 if issubclass(method, TwoPass) else 1
    return {
        "name": name,
        "title": method.title,
        "built": True,
        **_prose(method),
        "kind": method.kind.value,
        "acts": method.placement.value,
        "lasts": method.span.value,
        "count": method.count.value,
        "once_only": method.single_layer,
        "requires": list(requirements(method)),
        "exports": method.exportable or passes > 1,
        "graphs": passes,
        "training": method.training_need.value,
        "recipe": _recipe(method),
        "options": [_option(option) for option in method.options],
        "held_to": held_to(name).words,
        "on_backbone": _on_backbone(method, facts),
        "published_results": [dataclasses.asdict(row) for row in published_results(name)],
    }


def signals(needs: Needs) -> list[str]:
    """The intermediate values asked for, in words."""
    return [words for need, words in SIGNALS.items() if need in needs]


def _prose(method: type[TokenReducer]) -> dict[str, str]:
    """The file's docstring in parts: idea, paper, how it works, departures."""
    text = inspect.getdoc(inspect.getmodule(method)) or ""
    parts, departures = [], []
    for paragraph in text.split("\n\n"):
        part = " ".join(paragraph.split())
        found = DEPARTURES.search(part)
        if found:
            departures.append(part[found.end() :].strip())
            part = part[: found.start()].strip()
        parts += [part] if part else []
    return {
        "summary": " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split()),
        "idea": parts[0] if parts else "",
        "paper": parts[1] if len(parts) > 2 else "",
        "how": " ".join(parts[2:] if len(parts) > 2 else parts[1:]),
        "departures": " ".join(departures),
    }


def _recipe(method: type[TokenReducer]) -> dict[str, Any]:
    recipe = recipe_of(method, method.resolve_options({}))
    return {**dataclasses.asdict(recipe), "losses": dict(recipe.losses)}


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "default": option.default,
        "allowed": _allowed(option),
        "searched": option.search,
        "model_wide": option.model_wide,
        "meaning": option.meaning,
    }


def _allowed(option: Option) -> str:
    if option.choices:
        return ", ".join(map(str, option.allowed))
    if isinstance(option.default, bool):
        return "true, false"
    if option.low is None and option.high is None:
        return "any"
    low, high = (
        "" if v is None else f"{v:.0f}" if v == int(v) else f"{v:g}"
        for v in (option.low, option.high)
    )
    return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"


def _on_backbone(method: type[TokenReducer], facts: BackboneFacts) -> dict[str, Any]:
    """What depends on a backbone: signals, fit, range, schedules."""
    page: dict[str, Any] = {
        "backbone": facts.name,
        "blocks": facts.num_blocks,
        "patches": facts.num_patches,
        "lacks": unmet_need(method, facts),
    }
    if page["lacks"]:
        return page
    options = method.resolve_options({})
    low, high = method.feasible(facts.num_patches, options)
    layers = (0,) if method.placement is Placement.BEFORE_BLOCKS else (facts.num_blocks // 2,)
    observed = observed_needs(method, layers, facts, options)
    heard = {signal for needs in observed.values() for signal in signals(needs)}
    schedules = published_schedules(method.name, facts.num_blocks, facts.num_patches)
    return {
        **page,
        "signal": signals(method.resolve_needs(facts, options)),
        "signal_of_other_blocks": sorted(heard),
        "notes": list(method.notes(facts, options)),
        "keeps_of_all_patches": [low, high],
        "schedules": [
            {
                "source": schedule.source,
                "keeps": {r.layer: _kept(r.num_keep, r.keep_ratio) for r in schedule.reductions},
            }
            for schedule in schedules
        ],
    }


def _kept(num_keep: int | None, keep_ratio: float | None) -> int | float | None:
    return num_keep if num_keep is not None else keep_ratio


def method_text(page: dict[str, Any]) -> str:
    """A page of `describe_method` as text, 88 columns wide, the table of published numbers last."""
    if not page["built"]:
        lines = [f"{page['name']}: {page['title']}", ""]
        lines += _wrapped("not built", page["reason"])
        return "\n".join([*lines, *_results(page["published_results"])]) + "\n"
    lines = [f"{page['name']}: {page['title']}", "", page["summary"], ""]
    for label, key in (("paper", "paper"), ("how", "how"), ("departures", "departures")):
        lines += _wrapped(label, page[key])
    lines += [*_wrapped("held to", page["held_to"]), "", *_facts(page), ""]
    lines += _options(page["options"])
    on = page["on_backbone"]
    lines += ["", f"on {on['backbone']} ({on['blocks']} blocks, {on['patches']} patches)"]
    lines += [f"  {line}" for line in _backbone_lines(on)]
    return "\n".join([*lines, *_results(page["published_results"])]) + "\n"


def _facts(page: dict[str, Any]) -> list[str]:
    recipe, once = page["recipe"], ", once only" if page["once_only"] else ""
    lines = _wrapped("kind", f"{page['kind']}, {page['acts']}{once}")
    lines += _wrapped("lasts", page["lasts"])
    counts = "the same for every image" if page["count"] == "static" else "image by image"
    lines += _wrapped("counts", f"{page['count']}: {counts}")
    lines += _wrapped("requires", ", ".join(page["requires"]) or "nothing")
    several = f", as {page['graphs']} graphs: an image may stop between them"
    exports = f"yes{several if page['graphs'] > 1 else ''}"
    lines += _wrapped("exports", exports if page["exports"] else "no")
    words = {
        "free": "nothing to train",
        "optional": "works on frozen weights, training helps",
        "required": "has parameters that start meaningless",
    }
    lines += _wrapped("training", f"{page['training']}: {words[page['training']]}")
    terms = [f"{name} {weight:g}" for name, weight in recipe["losses"].items()]
    told = [
        f"own parameters at {recipe['reducer_lr']:g} x lr" if recipe["reducer_lr"] != 1 else "",
        f"backbone at {recipe['backbone_lr']:g} x lr" if recipe["backbone_lr"] != 1 else "",
        f"backbone frozen for {recipe['frozen_share']:.0%} of the steps"
        if recipe["frozen_share"]
        else "",
        "losses " + ", ".join(terms) if terms else "",
        recipe["source"],
    ]
    return lines + _wrapped("recipe", "; ".join(part for part in told if part))


def _options(options: list[dict[str, Any]]) -> list[str]:
    if not options:
        return ["options  none"]
    lines = ["options"]
    for option in options:
        searched = ", searched" if option["searched"] else ""
        default = option["default"]
        shown = str(default).lower() if isinstance(default, bool) else default
        wide = ", one for all layers" if option["model_wide"] else ""
        head = f"{option['name']} = {shown}  [{option['allowed']}{searched}{wide}]"
        for text, indent in ((head, "  "), (option["meaning"], "      ")):
            after = "      "
            lines += textwrap.wrap(text, 88, initial_indent=indent, subsequent_indent=after)
    return lines


def _backbone_lines(on: dict[str, Any]) -> list[str]:
    if on["lacks"]:
        return [f"does not fit: needs {on['lacks']}"]
    low, high = on["keeps_of_all_patches"]
    own, others = ", ".join(on["signal"]), ", ".join(on["signal_of_other_blocks"])
    lines = [f"signal: {own or 'the tokens themselves'}"]
    lines += [f"signal of other blocks: {others}"] if others else []
    lines += [f"one reduction keeps {low} to {high} of {on['patches']}", *on["notes"]]
    for schedule in on["schedules"]:
        keeps = ", ".join(f"{layer}: {kept}" for layer, kept in schedule["keeps"].items())
        lines += textwrap.wrap(f"published, {schedule['source']}: layer {keeps}", 86,
                               subsequent_indent="  ")  # fmt: skip
    return lines


def _results(rows: list[dict[str, Any]]) -> list[str]:
    """Published numbers, one line each under their source."""
    lines: list[str] = []
    source = ""
    for row in rows:
        if row["source"] != source:
            source = row["source"]
            lines += ["", *textwrap.wrap(f"published in {source}", 88)]
        before = row["baseline_top1_pct"]
        uncompressed = "" if before is None else f" ({before:g} % uncompressed)"
        figures = [
            f"{row['top1_pct']:g} % top-1{uncompressed}" if row["top1_pct"] is not None else "",
            *(f"{row[key]:g} {unit}" for key, unit in UNITS if row[key] is not None),
        ]
        where = ", ".join(
            part for part in (row["backbone"], row["variant"], row["setting"]) if part
        )
        device = f" on {row['device']}" if row["device"] else ""
        batch = f", batch {row['batch_size']}" if row["batch_size"] else ""
        said = ", ".join(part for part in figures if part)
        note = f" ({row['note']})" if row["note"] else ""
        text = f"{row['table']}: {where}: {said}{device}{batch}{note}"
        lines += textwrap.wrap(text, 88, initial_indent="  ", subsequent_indent="      ")
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    """`label  text` with the text in a column of its own; nothing for an empty text."""
    if not text:
        return []
    indent = " " * 12
    clean = re.sub(r"\s+", " ", text)
    return textwrap.wrap(clean, 88, initial_indent=f"{label:<12}", subsequent_indent=indent)
