"""The script of the page, run by node over a document of a few lines."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autotok.metrics import metric_of
from autotok.report import interactive
from autotok.report.interactive import front_figures
from autotok.report.points import Point
from autotok.report.published_points import References

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node, which runs the script, is not here")
SCRIPT = Path(interactive.__file__).with_name("page.js")
TOP1, MACS = metric_of("top1"), metric_of("macs")
POINTS = [
    Point("tome", 1.0, 80.0, 75.0, 85.0, 90, figures={"latency_ms": 4.0}, kind="best", number=3),
    Point("evit", 0.5, 70.0, 65.0, 75.0, 90, figures={"latency_ms": 5.0}, kind="front"),
    Point("none", 2.0, 85.0, 80.0, 90.0, 90, kind="uncompressed"),
    Point("topk", 0.8, 60.0, 50.0, 70.0, 20),
]
PUBLISHED = References((Point("ats", 1.5, 79.0, kind="published", source="a paper"),), shown=True)
STAGE = Path(__file__).with_name("page_stage.js").read_text("utf-8")


def drawn(published: References) -> dict[str, Any]:
    figures = front_figures(
        POINTS, TOP1, axes=(MACS, TOP1), limits={"macs": 1.8}, published=published
    )
    x, y = figures["x"], figures["y"]
    script = SCRIPT.read_text("utf-8").replace(
        "  draw();\n})();", f"  across.value = {x};\n  up.value = {y};\n  draw();\n}})();"
    )  # what a browser does by the option that was chosen
    command = [str(NODE), "--eval", STAGE.replace("SCRIPT", script), json.dumps(figures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_point_is_drawn_and_tells_its_figures() -> None:
    found = drawn(PUBLISHED)
    assert found["start"]["marks"] == 5
    assert found["start"]["bad"] is None
    assert {"tome", "evit", "uncompressed"} <= set(found["start"]["labels"])
    assert found["start"]["line"] == 2  # best and front
    assert found["said"].startswith("best, trial 3: tome, plug-in")
    assert "top-1 accuracy 80 % [75, 85] over 90 images" in found["said"]
    assert found["few"]["marks"] == 4
    assert found["own"]["marks"] == 3
    assert found["latency"]["marks"] == 2  # of those that have a latency


def test_published_points_come_and_go_and_have_no_name() -> None:
    with_them, without = drawn(PUBLISHED), drawn(References())
    assert with_them["shown"]
    assert not without["shown"]
    assert "ats" not in with_them["start"]["labels"]
    assert without["start"]["marks"] == 4
