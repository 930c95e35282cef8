"""What a search says first and last."""

import dataclasses
import json
from pathlib import Path

import pytest

from autotok.report.closing import _what_there_is, budget_lines, closing_data, closing_parts
from autotok.report.pages import draw_pages
from autotok.report.run import Run
from autotok.searching.space.budget import parse_budget


def test_budgets_are_echoed_as_understood() -> None:
    share, limit = budget_lines([parse_budget("50 %"), parse_budget("26ms")])
    assert share == "budget: 50 % = 50 % of the uncompressed model's macs"
    assert "26 ms per batch on the target" in limit
    of_one = dataclasses.replace(parse_budget("50%"), backbone="tiny")
    assert budget_lines([of_one]) == ["budget: 50 % = 50 % of tiny's macs, uncompressed"]


def test_a_best_slower_than_the_uncompressed_model_is_told_in_terminal_and_page(
    own_run: Path,
) -> None:
    path = own_run / "pareto.json"
    found = json.loads(path.read_text("utf-8"))
    latency = found["reference"]["predicted"]["latency_ms"]
    for record in (found["best"], *found["front"]):
        record["predicted"]["latency_ms"] = latency / 2
    path.write_text(json.dumps(found), "utf-8")
    assert not any("SLOWER" in part for part in closing_parts(Run(own_run)) if type(part) is str)
    for record in (found["best"], *found["front"]):
        record["predicted"]["latency_ms"] = 2 * latency
    path.write_text(json.dumps(found), "utf-8")
    told = [part for part in closing_parts(Run(own_run)) if type(part) is str]
    (place,) = (i for i, part in enumerate(told) if part.startswith("SLOWER THAN UNCOMPRESSED"))
    assert any(part.startswith("best: ") for part in told[:place])
    assert "2.00 times as long" in told[place]
    draw_pages(Run(own_run))
    page = (own_run / "report.html").read_text("utf-8")
    assert "<p class='warning'>SLOWER THAN UNCOMPRESSED" in page
    assert "0.50 times" in page


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("model.onnx", "best/ (weights, ONNX)"),
        ("model.0.onnx", "best/ (weights, ONNX)"),  # of a model that stops early
        ("weights.safetensors", "best/ (weights)"),
    ],
)
def test_what_lies_in_best_is_said(tmp_path: Path, file: str, told: str) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / file).touch()
    assert _what_there_is(tmp_path) == [told]


def test_the_last_line_says_how_to_make_up_for_a_file_that_was_left_out(own_run: Path) -> None:
    path = own_run / "report.json"
    why = "left out: no time; use `autotok export run/best.yaml -o run/model.onnx`"
    facts = {**json.loads(path.read_text("utf-8")), "no_files": {"onnx": why}}
    path.write_text(json.dumps(facts), "utf-8")
    assert closing_parts(Run(own_run))[-1] == f"no onnx file, {why}"
    assert closing_data(Run(own_run))["no_files"] == {"onnx": why}
