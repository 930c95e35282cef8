"""What a search says first."""

from autotok.report.closing import budget_lines
from autotok.searching.space.budget import parse_budget


def test_budgets_are_echoed_as_understood() -> None:
    share, limit = budget_lines([parse_budget("50 %"), parse_budget("26ms")])
    assert share == "budget: 50 % = 50 % of the uncompressed model's macs"
    assert "26 ms per batch on the target" in limit
