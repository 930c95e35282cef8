"""The README says what is: its commands exist and its table of methods is the registry's."""

import re
from pathlib import Path

import pytest

from autotok.report.catalog import methods_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def fenced(marker: str) -> str:
    match = re.search(rf"<!-- ci: {marker} -->\n+```\w*\n(.*?)```", README, re.DOTALL)
    assert match, f"README lacks the command marked {marker}"
    return match.group(1).strip()


def test_the_two_commands_are_there_and_are_one_line_each() -> None:
    assert "autotok search --target jetson-nx --budget 2.3GFLOPs" in fenced("default")
    assert fenced("tests").endswith("pytest")
    assert "\n" not in fenced("default") + fenced("tests")


def test_the_table_of_methods_is_the_registrys() -> None:
    assert methods_markdown().strip() in README, "run `autotok methods --markdown`"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    if not link.startswith("http"):
        assert (ROOT / link).exists()
