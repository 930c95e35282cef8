"""The front over any two metrics as a piece of a page: data, and the script that draws it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotok.metrics import TABLE, Metric

from .points import Point
from .published_points import References

NOTHING_PUBLISHED = References()
_SCRIPT = Path(__file__).with_name("page.js")
_HTML = """<h2>The front</h2>
<div id="front" hidden><div class="choice"><label>across <select id="across"></select></label>
<label>up <select id="up"></select></label>
<label><input id="all" type="checkbox" checked> everything that was evaluated</label>
<label id="others" hidden><input id="published" type="checkbox"> published of this backbone</label>
</div>
<div id="plot"></div><p class="key small"><span style="color:#c1121f">&#9733; best</span>
<span style="color:#0b6e4f">&#9679; front, &#9650; fine-tuned</span>
<span style="color:#2b59c3">&#9670; uncompressed</span>
<span style="color:#d1720a">&#9632; random pruning, &#9660; smaller images</span>
<span>&#9675; seen on few images</span>
<span>- - limit</span>
<span id="cross" style="color:#7b2d8b" hidden>&times; published, on ImageNet, GFLOPs as its source
counts</span>
</p><p id="said">Point at a mark for its figures.</p></div>
<noscript>{instead}</noscript>
<script type="application/json" id="points">{data}</script>
<script type="text/javascript">{script}</script>"""


def interactive_front(figures: Mapping[str, Any], instead: str) -> str:
    """HTML of `front_figures`; `instead` is what is shown where no script runs."""
    data = json.dumps(figures, allow_nan=False)
    for character in "<>&":  # nothing in it may end the element
        data = data.replace(character, f"\\u{ord(character):04x}")
    return _HTML.format(instead=instead, data=data, script=_SCRIPT.read_text("utf-8"))


def front_figures(
    points: Sequence[Point],
    judged: Metric,
    *,
    axes: tuple[Metric, Metric],
    limits: Mapping[str, float],
    published: References = NOTHING_PUBLISHED,
    asked: Sequence[Metric] = (),
) -> dict[str, Any]:
    """Every point and every metric that is known of some, as plain data; `asked` are the metrics of
    the run's objectives."""
    known = [
        metric
        for metric in TABLE
        if (metric.kind != "judged" or metric is judged)
        and any(p.value(metric) is not None for p in points)
    ]
    columns = [metric.column for metric in known]
    x, y = (columns.index(m.column) if m.column in columns else 0 for m in axes)
    return {
        "x": x,
        "y": y,
        "metrics": [
            _metric(metric, limits) | {"own": metric in (*axes, *asked)} for metric in known
        ],
        "points": [_point(point, known) for point in (*points, *published.points)],
        "published": published.shown,
    }


def _metric(metric: Metric, limits: Mapping[str, float]) -> dict[str, Any]:
    return {
        "column": metric.column,
        "label": metric.label,
        "unit": metric.unit,
        "axis": metric.axis,
        "higher": metric.higher_is_better,
        "judged": metric.kind == "judged",
        "limit": _finite(limits.get(metric.name)),
    }


def _point(point: Point, known: Sequence[Metric]) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "number": point.number,
        "method": point.name,
        "mode": point.mode_text,
        "schedule": point.source or point.schedule,
        "tuned": point.retrained,
        "able": point.feasible and not point.over,
        "images": point.num_images,
        "low": _finite(point.low),
        "high": _finite(point.high),
        "values": {metric.column: _finite(point.value(metric)) for metric in known},
    }


def _finite(value: float | None) -> float | None:
    """JSON knows no other numbers."""
    return value if value is not None and math.isfinite(value) else None
