"""The README and the pages it leads to: short, and every link leads somewhere."""

import re
from pathlib import Path

import pytest

import autotok

ROOT = Path(__file__).parents[1]
README_PATH = ROOT / "README.md"
README = README_PATH.read_text("utf-8")


def fenced(marker: str) -> str:
    match = re.search(rf"<!-- ci: {marker} -->\n+```\w*\n(.*?)```", README, re.DOTALL)
    assert match, f"README lacks the command marked {marker}"
    return match.group(1).strip()


def test_the_two_commands_are_there_and_are_one_line_each() -> None:
    assert "autotok search --target jetson-nx --budget 2.3GFLOPs" in fenced("default")
    assert fenced("tests").endswith("pytest")
    assert "\n" not in fenced("default") + fenced("tests")


def test_it_is_read_in_a_minute() -> None:
    assert len(README.splitlines()) <= 120


PAGES = [README_PATH, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_table_of_what_runs_is_what_the_families_say() -> None:
    marker = "<!-- autotok backbones --markdown -->\n"
    assert README.split(marker)[1].startswith(autotok.backbones_markdown() + "\n")
