"""The front over any two metrics, as data of a page."""

import json
import math
import re

from autotok.metrics import metric_of
from autotok.report.interactive import front_figures, interactive_front
from autotok.report.points import Point

TOP1, MACS, LATENCY = (metric_of(name) for name in ("top1", "macs", "latency"))
POINTS = [
    Point("tome", 1.0, 87.0, 80.0, 91.0, 99, figures={"latency_ms": 40.0}, kind="best"),
    Point("</script><b>", 2.0, 60.0, figures={"latency_ms": math.inf}),
]


def test_every_known_metric_can_be_an_axis() -> None:
    found = front_figures(POINTS, TOP1, axes=(MACS, TOP1), limits={"macs": 2.3})
    columns = [m["column"] for m in found["metrics"]]
    assert columns == ["top1_pct", "macs_g", "latency_ms"]
    assert (columns[found["x"]], columns[found["y"]]) == ("macs_g", "top1_pct")
    assert [m["limit"] for m in found["metrics"]] == [None, 2.3, None]
    assert found["points"][0]["values"] == {"top1_pct": 87.0, "macs_g": 1.0, "latency_ms": 40.0}
    assert found["points"][1]["values"]["latency_ms"] is None


def test_the_quality_is_there_where_it_was_no_objective() -> None:
    found = front_figures(POINTS, TOP1, axes=(LATENCY, MACS), limits={})
    assert "top1_pct" in [m["column"] for m in found["metrics"]]


def test_the_axes_of_the_run_s_own_front_are_told_whichever_way_they_are_chosen() -> None:
    found = front_figures(POINTS, TOP1, axes=(MACS, TOP1), limits={}, asked=(TOP1, LATENCY))
    assert all(m["own"] for m in found["metrics"])
    found = front_figures(POINTS, TOP1, axes=(MACS, TOP1), limits={}, asked=(TOP1, MACS))
    assert [m["own"] for m in found["metrics"]] == [True, True, False]


def test_nothing_in_the_data_ends_its_element() -> None:
    text = interactive_front(front_figures(POINTS, TOP1, axes=(MACS, TOP1), limits={}), "<img>")
    data = re.search(r'<script type="application/json" id="points">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1])["points"][1]["method"] == "</script><b>"
    assert text.count("</script>") == 2
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
