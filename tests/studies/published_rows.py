"""A study of the tiny backbone, in the place of those that come with autotok."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotok.studies import study_table

TOME = {"name": "tome-r2", "backbone": "tiny", "method": "tome"}
TOME |= {"schedule": {"removed_per_block": 2}, "stated": "r = 2"}  # type: ignore[dict-item]
ROWS: list[dict[str, Any]] = [
    {"name": "uncompressed", "backbone": "tiny"},
    TOME,
    {"name": "topk-60", "backbone": "tiny", "method": "topk", "share": 0.6, "mode": "retrain"},
]


def tiny_study(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    rows: list[dict[str, Any]] = ROWS,
    further: Mapping[str, Any] = {},
) -> str:
    """The name of a study with these rows, of which nothing is published."""
    data = {
        "title": "Tiny", "source": "nobody", "convention": "macs",
        "rows": [{"published": [], **row} for row in rows], **further,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data), "utf-8")
    monkeypatch.setattr(study_table, "TABLES", folder)
    return "tiny"
