"""What mattered, on a page."""

import json
from pathlib import Path

import pytest

from autotok.report.pages import write_again
from autotok.report.run import Run
from autotok.report.what_mattered import mattered_html
from autotok.searching.proposing.importance import FEWEST

KEPT = {
    "num_trials": 30,
    "shares": {"top1_pct": {"method": 0.7, "budget_fraction": 0.3}, "macs_g": {"<own>": 1.0}},
}


def test_a_row_is_a_parameter_and_a_column_an_objective() -> None:
    html = mattered_html(KEPT)
    assert html.index("method") < html.index("cost asked for") < html.index("&lt;own&gt;")
    assert "width:70%'></div>70 %" in html
    assert "top-1 accuracy" in html
    assert html.count("<td>-</td>") == 3


def test_few_trials_are_said_and_nothing_known_is_nothing() -> None:
    few = mattered_html({"num_trials": 5, "shares": {}})
    assert f"5 complete trials are too few to tell; from {FEWEST} on" in few
    assert "<table" not in few
    assert "do not differ" in mattered_html({"num_trials": 30, "shares": {"top1_pct": {}}})
    assert mattered_html({}) == ""


@pytest.mark.parametrize("damaged", [5, [1], {"num_trials": "x"}, {"num_trials": 20, "shares": 3}])
def test_what_is_damaged_is_left_out_of_the_page(own_run: Path, damaged: object) -> None:
    facts = json.loads((own_run / "report.json").read_text("utf-8"))
    assert "What mattered" in (own_run / "report.html").read_text("utf-8")
    facts["mattered"] = damaged
    (own_run / "report.json").write_text(json.dumps(facts), "utf-8")
    write_again(Run(own_run))
    assert "What mattered" not in (own_run / "report.html").read_text("utf-8")
