"""The method pages of the documentation: a folder of Markdown written from the registry alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from autotok.files import write_text
from autotok.methods import get_method, list_methods
from autotok.methods.evidence import not_built

from .catalog import methods_markdown
from .method_page import UNITS, describe_method, method_text

COMMAND = "autotok methods --write docs/methods"
MARK = f"<!-- written by `{COMMAND}`; do not edit -->"
INDEX = "README.md"
COLUMNS = (
    ("backbone", "backbone"),
    ("variant", "variant"),
    ("setting", "setting"),
    ("top1_pct", "top-1 %"),
    ("baseline_top1_pct", "uncompressed %"),
    *UNITS,
    ("device", "device"),
    ("batch_size", "batch"),
    ("table", "where"),
    ("note", "note"),
)


def method_pages() -> dict[str, str]:
    """File name to Markdown: a page for each of autotok's own methods and each that is not built,
    and the index."""
    own = [n for n in list_methods() if get_method(n).__module__.startswith("autotok.")]
    names = [*own, *(entry.name for entry in not_built())]
    return {INDEX: _index(), **{f"{name}.md": method_markdown(name) for name in names}}


def write_method_pages(folder: str | Path) -> list[Path]:
    """The pages just written; those of methods that are gone are removed."""
    folder, pages = Path(folder), method_pages()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in pages and old.read_text("utf-8").startswith(MARK):
            old.unlink()
    return [write_text(folder / name, text) for name, text in pages.items()]


def method_markdown(name: str) -> str:
    """One page: the text of `autotok methods show`, with published numbers as tables."""
    page = describe_method(name)
    results = page["published_results"]
    lines = [MARK, "", f"# `{name}`: {page['title']}", ""]
    if not page["built"]:
        lines += [f"Not built: {_line(page['reason'])}", ""]
    else:
        lines += [page["summary"], ""]
        for label, key in (("Paper", "paper"), ("How it works", "how")):
            lines += [f"**{label}.** {page[key]}", ""] if page[key] else []
        if page["departures"]:
            lines += [f"**Departures.** {_sentence(page['departures'])}", ""]
        lines += [f"**Held to** {page['held_to']}.", ""]
        lines += ["```", *_declared(page), "```", ""]
    lines += [line for source in _sources(results) for line in _published(source, results)]
    return "\n".join(lines).rstrip() + "\n"


def _declared(page: dict[str, Any]) -> list[str]:
    """The part of the page's text that its declarations make: kind to schedules."""
    text = method_text({**page, "published_results": []})
    return text[text.index("\nkind ") + 1 :].rstrip().splitlines()


def _index() -> str:
    rows = re.sub(r"^\| `([^`]+)` \|", r"| [`\1`](\1.md) |", methods_markdown(), flags=re.MULTILINE)
    missing = [
        f"- [`{e.name}`]({e.name}.md), {e.title}: {_line(e.reason)}" for e in not_built()
    ]  # fmt: skip
    return "\n".join(
        [
            MARK,
            "",
            "# Methods",
            "",
            "Each page says what is known of one method: how it works, where this code departs",
            "from the paper, whose outputs it is held to, options, training, published numbers.",
            "",
            rows,
            "## Not built",
            "",
            *missing,
            "",
        ]
    )


def _sources(results: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["source"] for row in results))


def _published(source: str, results: list[dict[str, Any]]) -> list[str]:
    """A table of one source's numbers; columns that it says nothing in are left out."""
    rows = [row for row in results if row["source"] == source]
    used = [(key, title) for key, title in COLUMNS if any(_cell(row[key]) for row in rows)]
    return [
        f"## Published in {_line(source)}",
        "",
        "| " + " | ".join(title for _, title in used) + " |",
        "|" + "---|" * len(used),
        *("| " + " | ".join(_cell(row[key]) for key, _ in used) + " |" for row in rows),
        "",
    ]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else _line(str(value)).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
