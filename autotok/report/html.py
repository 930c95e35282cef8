"""`report.html`: one file, readable offline, everything from outside escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from autotok.files import write_text

from .points import Metric, Point
from .tables import plain_table

__all__ = ["Report", "control_sentence", "write_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
padding: 0 1rem } h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 13px } th, td { padding: .3rem .6rem; text-align:
left; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums } th { vertical-align:
bottom } tr.best { background: #e7f5ee; font-weight: 600 } tr.uncompressed { color: #2b59c3 }
tr.random-control { color: #a85a05 } img { max-width: 100% } .wide { overflow-x: auto }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto } .fact { font-size: 1.05rem }
"""


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
    latency_source: str = "predicted"
    environment: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, str] = field(default_factory=dict)
    """What was verified and what came out, such as exports and the independent count."""
    notes: Sequence[str] = ()
    config_yaml: str = ""
    """Text of best.yaml."""


def control_sentence(points: Sequence[Point], metric: Metric) -> str:
    """Best against the best random pruning within its cost, in one sentence; '' without the two."""
    best = next((p for p in points if p.kind == "best" and p.quality is not None), None)
    controls = [p for p in points if p.kind == "random control" and p.quality is not None]
    if best is None or best.quality is None or not controls:
        return ""
    sign = 1 if metric.higher_is_better else -1
    near = [p for p in controls if p.macs_g <= best.macs_g * 1.02] or controls
    control = max(near, key=lambda p: sign * (p.quality or 0.0))
    assert control.quality is not None
    gain = sign * (best.quality - control.quality)
    warning = "; NO BETTER THAN RANDOM PRUNING: search longer or with more images" * (gain <= 0)
    return (
        f"best: {best.method}, {metric.text(best.quality)} at {best.macs_g:.3f} GFLOPs;"
        f" best of {len(controls)} random prunings: {metric.text(control.quality)} at"
        f" {control.macs_g:.3f} GFLOPs; difference"
        f" {gain:+.{1 if metric.unit else 4}f}"
        f" {'points' if metric.unit == '%' else 'in favour of the best'}{warning}"
    )


def write_report(path: Path, report: Report, *, picture: Path | None = None) -> Path:
    """`path`, now the report; the picture is embedded."""
    parts = [f"<h1>{escape(report.title)}</h1>"]
    if report.budget:
        parts.append(f"<p>Budget: {escape(report.budget)}</p>")
    sentence = control_sentence(report.points, report.metric)
    if sentence:
        parts.append(f'<p class="fact">{escape(sentence[0].upper() + sentence[1:])}.</p>')
    if picture is not None and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(f'<img alt="Pareto front" src="data:image/png;base64,{data}">')
    parts += [_table(report), *(f"<p>{escape(note)}</p>" for note in report.notes)]
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
    heads, rows = plain_table(shown, report.metric, latency_source=report.latency_source)
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    lines = [f"<h2>Configurations</h2><div class='wide'><table><tr>{head}</tr>"]
    for row in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="{escape(row[0].replace(" ", "-"))}">{cells}</tr>')
    more = f"<p>{others} more evaluated configurations are in trials.csv.</p>" if others else ""
    return "\n".join([*lines, f"</table></div>{more}"])


def _facts(title: str, facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f"<h2>{escape(title)}</h2><table>{rows}</table>"
