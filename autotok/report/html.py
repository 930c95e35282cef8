"""`report.html`: one file, readable offline, everything from outside escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import MappingProxyType

from autotok.files import write_text
from autotok.metrics import METRICS, Metric
from autotok.searching.records.comparison import Comparisons

from .headline import headline, slower_sentence
from .interactive import NOTHING_PUBLISHED, front_figures, interactive_front
from .points import Point
from .published_points import References
from .run_maps import KeptMap
from .sentences import (
    CAUTION,
    control_sentence,
    other_backbone_sentences,
    smaller_image_sentence,
    standing_sentences,
    tuning_sentence,
)
from .sources import Sources
from .tables import SHOWN, plain_table, tuning_table

_STYLE = Path(__file__).with_name("page.css")
_LONG, MAX_CELL = ' class="long"', 40


@dataclass(frozen=True)
class Report:
    """What a report says; every string may come from a user and is escaped."""

    title: str
    command: str
    """The command that reproduces the run."""
    points: Sequence[Point]
    metric: Metric
    budget: str = ""
    """The budget as echoed to the user."""
    sources: Sources = field(default_factory=Sources)
    on_device: Sequence[Metric] = SHOWN
    """Metrics on the device that the table has."""
    environment: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, str] = field(default_factory=dict)
    """What was verified and what came out, such as exports and the independent count."""
    notes: Sequence[str] = ()
    config_yaml: str = ""
    """Text of best.yaml."""
    comparisons: Comparisons = field(default_factory=Comparisons)
    axes: tuple[Metric, Metric] | None = None
    """Of the picture; GFLOPs and the quality by default."""
    asked: Sequence[Metric] = ()
    """Of the run's objectives."""
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By metric's name, in its column's unit."""
    published: References = NOTHING_PUBLISHED
    """Of the same backbone, by others."""
    charts: Sequence[str] = ()
    """Small pictures, as HTML."""
    mattered: str = ""
    """Which parameters did, as HTML."""
    maps: Sequence[KeptMap] = ()
    """Where the tokens of some images went."""
    maps_summary: str = ""
    no_smaller_image: str = ""
    """Why there is no control on smaller images, where there is none."""
    no_random_control: str = ""
    """Why there is no random pruning, where there is none."""
    careful: Sequence[str] = ()
    """What is wrong with the best, in sentences."""


def write_report(path: Path, report: Report, *, picture: Path | None = None) -> Path:
    """`path`, now the report; the picture is embedded."""
    parts = [f"<h1>{escape(report.title)}</h1>", _headline(report), _front(report, picture)]
    parts += [_standings(report), _table(report), _tuning(report)]
    parts += [f"<div class='charts'>{''.join(report.charts)}</div>"] if report.charts else []
    parts += [report.mattered, _maps(report)]
    parts += [f"<p>{escape(note)}</p>" for note in report.notes]
    parts += [_facts("Checks", report.checks), _facts("Environment", report.environment)]
    if report.config_yaml:
        parts.append(f"<h2>best.yaml</h2><pre>{escape(report.config_yaml)}</pre>")
    parts.append(f"<h2>How to reproduce</h2><pre class='command'>{escape(report.command)}</pre>")
    body = "\n".join(part for part in parts if part)
    return write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE.read_text('utf-8')}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n",
    )


def _headline(report: Report) -> str:
    """The best in five figures, the command that found it, and what is wrong with it."""
    cells = [
        f"<div class='figure{' alarming' if figure.alarming else ''}'>"
        f"<div class='label'>{escape(figure.label)}</div>"
        f"<div class='value'>{escape(figure.value)}</div>"
        f"<div class='against'>{escape(figure.against)}</div></div>"
        for figure in headline(report.points, report.metric, report.sources)
    ]
    parts = [f"<p>Budget: {escape(report.budget)}</p>"] if report.budget else []
    parts += [f"<div class='figures'>{''.join(cells)}</div>"] if cells else []
    wrong = [*report.careful, slower_sentence(report.points)]
    parts += [f"<p class='warning'>{escape(_sentence(line))}</p>" for line in wrong if line]
    sentences = [
        control_sentence(report.points, report.metric, report.no_random_control),
        smaller_image_sentence(report.points, report.metric, report.no_smaller_image),
    ]
    parts += [f"<p class='fact'>{escape(_sentence(line))}</p>" for line in sentences if line]
    parts.append(f"<pre class='command'>{escape(report.command)}</pre>")
    return "\n".join(parts)


def _front(report: Report, picture: Path | None) -> str:
    """The front: over any two metrics where scripts run, else the picture."""
    if picture is None or not picture.is_file():
        return ""
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    image = f'<img alt="Pareto front" src="data:image/png;base64,{data}">'
    axes = report.axes or (METRICS["macs"], report.metric)
    figures = front_figures(
        report.points,
        report.metric,
        axes=axes,
        asked=report.asked,
        limits=report.limits,
        published=report.published,
    )
    return interactive_front(figures, image)


def _table(report: Report) -> str:
    """Front, best, control and uncompressed; the other trials are in trials.csv."""
    shown = [p for p in report.points if p.kind != "trial"]
    others = len(report.points) - len(shown)
    if not shown:
        return "<p>Nothing was evaluated.</p>"
    heads, rows = plain_table(
        shown, report.metric, sources=report.sources, on_device=report.on_device
    )
    more = f"<p>{others} more evaluated configurations are in trials.csv.</p>" if others else ""
    classes = [row[0].replace(" ", "-") for row in rows]
    return f"<h2>Configurations</h2>{_drawn(heads, rows, classes)}{more}"


def _standings(report: Report) -> str:
    """What of the table is more than noise."""
    lines = other_backbone_sentences(report.points, report.metric)
    lines += standing_sentences(report.comparisons, report.metric)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(_sentence(line))}</li>" for line in lines)
    return f"<h2>More than noise?</h2><ul>{items}</ul><p class='small'>{escape(CAUTION)}</p>"


def _tuning(report: Report) -> str:
    """What fine-tuning bought."""
    gains = report.comparisons.tuning
    if not gains:
        return ""
    heads, rows = tuning_table(gains, report.metric)
    classes = [gain.verdict.split(" (")[0].replace(" ", "-") for gain in gains]
    sentence = tuning_sentence(gains, report.metric)
    told = f"<p>{escape(_sentence(sentence))}</p>" if sentence else ""
    return f"<h2>Fine-tuning</h2>{told}{_drawn(heads, rows, classes)}"


def _maps(report: Report) -> str:
    """Where the tokens of some images went."""
    if not report.maps:
        return ""
    told = f"<p>{escape(_sentence(report.maps_summary))}</p>" if report.maps_summary else ""
    figures = [
        f"<figure><figcaption>{escape(one.caption)}</figcaption><div class='wide'>"
        f'<img alt="{escape(one.caption)}" loading="lazy"'
        f' src="data:image/png;base64,{base64.b64encode(one.png).decode("ascii")}"></div></figure>'
        for one in report.maps
    ]
    return f"<h2>Where the tokens went</h2>{told}<div class='maps'>{''.join(figures)}</div>"


def _drawn(heads: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    lines = [f"<div class='wide'><table class='rows'><tr>{head}</tr>"]
    for row, name in zip(rows, classes, strict=True):
        cells = "".join(
            f'<td{_LONG if len(c) > MAX_CELL else ""} data-head="{escape(h)}">{escape(c)}</td>'
            for h, c in zip(heads, row, strict=True)
        )
        lines.append(f'<tr class="{escape(name)}">{cells}</tr>')
    return "\n".join([*lines, "</table></div>"])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _facts(title: str, facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f"<h2>{escape(title)}</h2><div class='wide'><table class='facts'>{rows}</table></div>"
