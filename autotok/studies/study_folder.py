"""The folder of a study: what was asked, its rows so far as results.csv, and table.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotok.documents import parse_json
from autotok.errors import RunDirectoryError
from autotok.files import check_folder, write_text
from autotok.names import is_named
from autotok.plain_data import typed

QUESTION, RESULTS, TABLE, CURVE = "study.json", "results.csv", "table.md", "curve.png"
COLUMNS = (
    "row", "status", "backbone", "ran_on", "method", "published_mode", "run_as",
    "schedule", "schedule_from", "macs_g", "cost_share", "published_cost_share", "params_m",
    "metric", "value", "low_95", "high_95", "num_images", "uncompressed", "relative_change_pct",
    "published_top1_pct", "published_relative_change_pct", "throughput_img_s", "speedup",
    "published_speedup", "published_throughput_img_s", "published_latency_ms",
    "published_memory_mb", "published_on", "measured", "note",
)  # fmt: skip
"""Of results.csv; shares are of the uncompressed model in the source's own counting."""
OK = "ok"
NOT_TIMED = "not timed: "
"""In a note, before the reason."""
Result = dict[str, str]
"""One row of results.csv."""


@dataclass(frozen=True)
class StudyQuestion:
    """What QUESTION keeps: rows under another question are not put beside these."""

    study: str
    data: str
    stand_in: str
    num_images: int
    finetune_steps: int
    precision: str
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """Digests of weight files that were given, by the backbone's name."""
    class_names: str = ""
    """Digest of the file."""


def placed(data: str) -> str:
    """Data as it is called from any working directory: a folder by its whole path."""
    return data if is_named(data) else str(Path(data).expanduser().absolute())


class StudyFolder:
    """Reads and writes the folder; every file is whole at any moment."""

    def __init__(self, path: Path, question: StudyQuestion) -> None:
        """The folder, new or of the same question.

        Raises:
            RunDirectoryError: it holds other answers, or cannot be read or written.
        """
        self.path, self.question = path, question
        check_folder(path)
        asked = path / QUESTION
        if asked.is_file():
            held = parse_json(_text(asked), str(asked))
            before = typed(StudyQuestion, held, str(asked))
            changed = [key for key in vars(question) if key in held and self._differs(before, key)]
            if changed:
                told = ", ".join(f"{k} {getattr(before, k)!r}" for k in changed)
                raise RunDirectoryError(
                    f"folder '{path}' holds a study of {told}, not of what is asked now; ask for"
                    " the same, or choose another --output"
                )

    def _differs(self, before: StudyQuestion, key: str) -> bool:
        """Whether a part of the question is another; weights count where rows ran on them."""
        old, new = getattr(before, key), getattr(self.question, key)
        if key == "checkpoints":
            ran = {row["backbone"] for row in self.read().values()}
            return any(old.get(name) != new.get(name) for name in ran)
        return placed(old) != placed(new) if key == "data" else bool(old != new)

    def read(self) -> dict[str, Result]:
        """{row: result} of the rows that ran; those that did not are tried again."""
        path = self.path / RESULTS
        if not path.is_file():
            return {}
        reader = csv.DictReader(io.StringIO(_text(path)))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise RunDirectoryError(
                f"'{path}' does not have the columns of a study; remove it to run its rows again"
            )
        rows = [{key: row[key] or "" for key in COLUMNS} for row in reader]
        return {row["row"]: row for row in rows if row["status"] == OK}

    def begin(self) -> None:
        """Note what is asked."""
        write_text(self.path / QUESTION, json.dumps(vars(self.question), indent=1) + "\n")

    def write(self, results: Sequence[Mapping[str, str]], table: str) -> None:
        """Both tables, as far as they are."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)
        write_text(self.path / RESULTS, text.getvalue())
        write_text(self.path / TABLE, table)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"'{path}' cannot be read ({error}); remove it, or choose another --output"
        ) from error
