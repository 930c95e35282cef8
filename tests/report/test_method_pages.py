"""The method pages in docs/ are what the registry says, no more and no less."""

import re
from pathlib import Path

import pytest

from autotok.methods import get_method, list_methods
from autotok.methods.evidence import not_built
from autotok.report.method_pages import COMMAND, method_pages, write_method_pages

DOCS = Path(__file__).parents[2] / "docs" / "methods"
OWN = [n for n in list_methods() if get_method(n).__module__.startswith("autotok.")]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return method_pages()


def test_every_page_is_in_step_with_the_registry(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        assert (DOCS / name).is_file(), f"run `{COMMAND}`"
        assert (DOCS / name).read_text("utf-8") == text, f"{name}: run `{COMMAND}`"


def test_there_is_a_page_for_each_method_and_no_other() -> None:
    missing = {entry.name for entry in not_built()}
    assert {p.stem for p in DOCS.glob("*.md")} == {"README", *OWN, *missing}


def test_the_index_leads_to_every_page(pages: dict[str, str]) -> None:
    links = set(re.findall(r"\]\(([^)]+\.md)\)", pages["README.md"]))
    assert links == set(pages) - {"README.md"}


def test_a_page_says_what_is_declared_and_published(pages: dict[str, str]) -> None:
    page = pages["tome.md"]
    assert "# `tome`: ToMe (ICLR 2023)" in page
    assert "kind        merge, between attention and MLP" in page
    assert "## Published in LTP-ViT" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert any("| 77 | 81.39 | 2.29 |" in line for line in rows)


def test_pages_of_methods_that_are_gone_are_removed_and_others_left(
    tmp_path: Path, pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.report.method_pages.method_pages", lambda: pages)
    folder = tmp_path / "docs"
    write_method_pages(folder)
    (folder / "gone.md").write_text(pages["topk.md"], "utf-8")
    (folder / "notes.md").write_text("my own\n", "utf-8")
    written = write_method_pages(folder)
    assert len(written) == len(pages)
    assert {p.name for p in folder.iterdir()} == {*pages, "notes.md"}
