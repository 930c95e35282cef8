"""A study runs its rows, says what it will cost, goes on after an interruption."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from published_rows import ROWS, TOME, tiny_study

import autotok
from autotok.errors import ConfigError
from autotok.studies import row_models, study_engine
from autotok.studies.row_models import RowModels

ASKED: dict[str, Any] = {"data": "digits", "num_images": 20, "device": "cpu"}


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


def test_rows_are_run_and_written_beside_what_is_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = tiny_study(monkeypatch, tmp_path / "tables")
    told: list[str] = []
    out = tmp_path / "out"
    result = autotok.run_study(
        name, output=out, on_progress=lambda at, text: told.append(text), **ASKED
    )
    assert re.match(r"tiny on digits", told[0])
    assert re.match(
        r"cost: 3 configurations of 3 rows on tiny, 20 images each, 0 training steps, about"
        r" [0-9.]+ minutes",
        told[1],
    )
    assert result.cost == told[1]
    rows = rows_of(out)
    assert [row["status"] for row in rows.values()] == ["ok"] * 3
    assert rows["tome-r2"]["schedule"] == "0:14, 1:12, 2:10, 3:8"
    assert rows["tome-r2"]["num_images"] == "20"
    assert float(rows["topk-60"]["cost_share"]) == pytest.approx(0.6, abs=0.05)
    assert rows["topk-60"]["run_as"] == "plug-in, though published retrained"
    assert "tiny on digits" in (out / "table.md").read_text("utf-8")


def test_an_interrupted_study_goes_on_without_what_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = tiny_study(monkeypatch, tmp_path / "tables")
    judge, judged = RowModels.judge, []

    def counting(self: RowModels, row: Any, config: Any, steps: int) -> Any:
        if row.name == "tome-r2" and "tome-r2" not in judged:
            judged.append(row.name)
            raise KeyboardInterrupt
        judged.append(row.name)
        return judge(self, row, config, steps)

    monkeypatch.setattr(RowModels, "judge", counting)
    with pytest.raises(KeyboardInterrupt):
        autotok.run_study(name, output=tmp_path / "out", **ASKED)
    assert list(rows_of(tmp_path / "out")) == ["uncompressed"]
    result = autotok.run_study(name, output=tmp_path / "out", only=["uncompressed"], **ASKED)
    assert result.cost == "cost: 0 configurations to run, 0 rows that cannot"
    autotok.run_study(name, output=tmp_path / "out", **ASKED)
    assert judged == ["uncompressed", "tome-r2", "tome-r2", "topk-60"]
    assert list(rows_of(tmp_path / "out")) == [row["name"] for row in ROWS]


def test_weights_that_are_missing_mark_their_rows_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [
        {"name": "far", "backbone": "autoformer_small"},
        {"name": "own", "backbone": "tiny", "weights": "Tiny-MAE"},
        {"name": "untrained", "backbone": "tiny", "method": "dynamicvit", "share": 0.7},
        TOME,
    ]
    name = tiny_study(monkeypatch, tmp_path / "tables", rows)
    autotok.run_study(name, output=tmp_path / "out", **ASKED)
    found = {row: result["status"] for row, result in rows_of(tmp_path / "out").items()}
    assert re.match("not run: .*checkpoint", found["far"])
    assert "give them by --checkpoint Tiny-MAE=FILE" in found["own"]
    assert "must be trained before it is of any use; give --finetune STEPS" in found["untrained"]
    assert found["tome-r2"] == "ok"


def test_a_row_that_cannot_be_timed_keeps_its_quality(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: RowModels, row: Any, *_: Any) -> Any:
        raise RuntimeError("CUDA out of memory") if row.name == "tome-r2" else ConfigError("no")

    monkeypatch.setattr(RowModels, "measured", full)
    name = tiny_study(monkeypatch, tmp_path / "tables", further={"measured": "latency"})
    autotok.run_study(name, output=tmp_path / "out", only=["tome-r2", "topk-60"], **ASKED)
    rows = rows_of(tmp_path / "out")
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert all(row["value"] and not row["speedup"] for row in rows.values())
    assert rows["tome-r2"]["note"].endswith(
        "not timed: out of memory (RuntimeError: CUDA out of memory)"
    )
    assert rows["topk-60"]["note"].endswith("not timed: no")
    table = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert "Not timed:\n\n- tome-r2: out of memory (" in table
    assert "Published with" not in table


def test_the_demo_stands_in_where_no_data_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"name": "uncompressed", "backbone": "deit_small_patch16_224"}]
    name = tiny_study(monkeypatch, tmp_path / "tables", rows, {"measured": "latency"})
    for module in (row_models, study_engine):
        monkeypatch.setattr(module, "STAND_IN", "tiny")
    told: list[str] = []
    result = autotok.run_study(
        name, output=tmp_path / "out", num_images=2, on_progress=lambda at, text: told.append(text)
    )
    assert "tiny stands in for every published backbone" in told[0]
    assert told[0] in result.table
    assert result.rows[0]["ran_on"] == "tiny"
    assert float(result.rows[0]["throughput_img_s"]) > 0.0
    assert result.rows[0]["speedup"] == "1"


@pytest.mark.slow
def test_retrained_rows_are_fine_tuned_where_steps_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learned = {"name": "d", "backbone": "tiny", "method": "dynamicvit", "share": 0.7}
    name = tiny_study(monkeypatch, tmp_path / "tables", [*ROWS, learned])
    result = autotok.run_study(name, output=tmp_path / "out", finetune_steps=3, **ASKED)
    assert "6 training steps" in result.cost
    ran = {row["row"]: row["run_as"] for row in result.rows}
    assert ran["topk-60"] == ran["d"] == "fine-tuned, 3 steps"
    assert ran["tome-r2"] == "plug-in"
