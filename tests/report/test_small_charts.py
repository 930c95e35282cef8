"""Small pictures of a page."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from autotok.report.small_charts import BOTTOM, HEIGHT, TOP, course_line, token_bars


def heights(svg: str, colour: str) -> list[float]:
    return [float(h) for h in re.findall(rf'height="([\d.]+)" fill="{colour}"', svg)]


def test_a_bar_is_as_high_as_its_share_of_the_tokens() -> None:
    svg = token_bars(100, [100, 50], [50, 25])
    ET.fromstring(svg)
    full = HEIGHT - BOTTOM - TOP
    assert heights(svg, "#0b6e4f") == [full, full / 2, full / 2, full / 4]
    assert heights(svg, "#dcdcdc") == [full, full]
    assert "patch tokens of the best, of 100" in svg


def test_a_course_ends_at_its_top() -> None:
    svg = course_line([1.0, 2.0, 4.0], "steps", "a <title>")
    ET.fromstring(svg)
    points = re.search(r'points="([^"]+)"', svg)
    assert points is not None
    rows = [float(pair.split(",")[1]) for pair in points[1].split()]
    assert rows[-1] == TOP
    assert rows[0] > rows[1] > rows[2]
    assert "a &lt;title&gt;" in svg


def test_nothing_that_grew_is_still_a_picture() -> None:
    ET.fromstring(course_line([0.0, 0.0], "steps", "title"))


def test_a_finished_run_shows_tokens_by_block_and_how_the_front_grew(finished_run: Path) -> None:
    page = (finished_run / "report.html").read_text("utf-8")
    assert "patch tokens of the best, of 16" in page
    assert "configurations evaluated" in page
