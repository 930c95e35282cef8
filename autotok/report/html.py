"""`report.html`: one file, readable offline, everything from outside escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from autotok.files import write_text
from autotok.metrics import Metric
from autotok.searching.records.comparison import Comparisons

from .points import Point
from .sentences import CAUTION, control_sentence, standing_sentences, tuning_sentence
from .sources import Sources
from .tables import SHOWN, plain_table, tuning_table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 80rem; margin: 2rem auto;
padding: 0 1rem } h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 13px } th, td { padding: .3rem .6rem; text-align:
left; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums } th { vertical-align:
bottom } .wide td { white-space: nowrap } .wide td.long { white-space: normal; min-width: 11rem }
tr.best { background: #e7f5ee; font-weight: 600 } tr.uncompressed { color: #2b59c3 }
tr.random-control { color: #a85a05 } img { max-width: min(100%, 62rem) } .wide { overflow-x: auto }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto } .fact { font-size: 1.05rem }
.small { color: #555; font-size: 13px } tr.fine-tuning-helped { background: #e7f5ee }
tr.fine-tuning-hurt { color: #a8201a }
"""
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


def write_report(path: Path, report: Report, *, picture: Path | None = None) -> Path:
    """`path`, now the report; the picture is embedded."""
    parts = [f"<h1>{escape(report.title)}</h1>"]
    if report.budget:
        parts.append(f"<p>Budget: {escape(report.budget)}</p>")
    sentence = control_sentence(report.points, report.metric)
    if sentence:
        parts.append(f'<p class="fact">{escape(_sentence(sentence))}</p>')
    if picture is not None and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(f'<img alt="Pareto front" src="data:image/png;base64,{data}">')
    parts += [_standings(report), _table(report), _tuning(report)]
    parts += [f"<p>{escape(note)}</p>" for note in report.notes]
    parts += [_facts("Checks", report.checks), _facts("Environment", report.environment)]
    if report.config_yaml:
        parts.append(f"<h2>best.yaml</h2><pre>{escape(report.config_yaml)}</pre>")
    parts.append(f"<h2>How to reproduce</h2><pre>{escape(report.command)}</pre>")
    body = "\n".join(part for part in parts if part)
    return write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n",
    )


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
    lines = standing_sentences(report.comparisons, report.metric)
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


def _drawn(heads: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    lines = [f"<div class='wide'><table><tr>{head}</tr>"]
    for row, name in zip(rows, classes, strict=True):
        cells = "".join(
            f"<td{_LONG if len(cell) > MAX_CELL else ''}>{escape(cell)}</td>" for cell in row
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
    return f"<h2>{escape(title)}</h2><table>{rows}</table>"
