"""What a run's folder keeps of how it went."""

import dataclasses
import json
from pathlib import Path

from evidence import final, hits, record

from autotok.backbones.tiny import tiny_backbone
from autotok.report.run_notes import (
    careful_lines,
    careful_of,
    checks_of,
    no_file_lines,
    no_files,
    notes_of,
)
from autotok.searching.records.final import Final
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.settings import FidelityPlan, SearchSettings


def result(last: Final, *, settings: SearchSettings | None = None) -> SearchResult:
    return SearchResult(
        Path("run"), last.front, last, FidelityPlan(64, 256, 400), settings or SearchSettings(),
        stopped_by="trials", seconds=12.0,
    )  # fmt: skip


def test_on_how_many_images_the_last_were_judged_is_true_where_the_race_drops_some() -> None:
    told = notes_of(result(final()), None)[0]
    assert told.endswith("the front, the controls and the uncompressed model on 400.")
    dropped = (*final().front, record(9, "pitome", 1.0, hits(0.6, images=64)))
    told = notes_of(result(dataclasses.replace(final(), front=dropped)), None)[0]
    assert told.endswith("model on up to 400, each row says its own.")


def test_a_file_that_was_left_out_is_told_from_one_that_failed(tmp_path: Path) -> None:
    why = "the time limit of 9 s left 0 s; use `autotok export run/best.yaml -o run/model.onnx`"
    exports = {
        "onnx": {"ok": False, "left_out": True, "error": why},
        "pt2": {"ok": False, "error": "no such operator"},
    }
    assert checks_of(result(final()), exports)["onnx export"] == f"left out: {why}"
    assert checks_of(result(final()), exports)["pt2 export"] == "failed: no such operator"
    assert no_file_lines(tmp_path) == []
    (tmp_path / "report.json").write_text(json.dumps({"no_files": no_files(exports)}))
    assert no_file_lines(tmp_path) == [
        f"no onnx file, left out: {why}",
        "no pt2 file, failed: no such operator",
    ]


def test_only_a_float32_file_is_said_to_agree_with_torch() -> None:
    about = {"num_images": 64, "max_abs_diff": 0.5, "runtime": "made up", "agreement_pct": 62.5}
    exports = {
        name: {"precision": precision, "ok": ok, **about}
        for name, precision, ok in (
            ("onnx", "int8", True), ("pt2", "float32", True), ("openvino", "float32", False),
        )
    }  # fmt: skip
    found = checks_of(result(final()), exports)
    assert found["onnx export"].startswith("has the same first choice as torch on 62.5 %, on 64 im")
    assert found["pt2 export"].startswith("agrees with torch on 64 images, largest difference 5.0e")
    assert found["openvino export"].startswith("DISAGREES with torch on 64 images, largest diff")


def test_a_best_worse_than_was_asked_for_or_no_better_than_guessing_is_called_out(
    tmp_path: Path,
) -> None:
    facts = tiny_backbone().facts
    last = final()
    assert careful_of(result(last, settings=SearchSettings(min_quality=80.0)), facts) == []
    (line,) = careful_of(result(last, settings=SearchSettings(min_quality=95.0)), facts)
    assert line == (
        "NOT AS GOOD AS ASKED: the best has 87.5 % on 400 images, worse than the least quality"
        " asked for, 95.0 % (--min-quality)"
    )
    poor = record(1, "tome", 1.0, "1" * 2 + "0" * 38)
    (line,) = careful_of(result(Final((poor,), poor, None, (), None)), facts)
    assert line == (
        "NO BETTER THAN GUESSING, within noise: the best has 5.0 % on 40 images, and answers drawn"
        " evenly among 10 classes have 10.0 %"
    )
    assert careful_lines(tmp_path) == []
    (tmp_path / "report.json").write_text(json.dumps({"careful": [line]}))
    assert careful_lines(tmp_path) == [line]
