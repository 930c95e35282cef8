"""Rows of results.csv: published figures, and own ones beside them."""

from autotok.backbones.loading import load_structure
from autotok.studies.result_row import planned_result
from autotok.studies.row_plan import plan_row
from autotok.studies.study_table import load_study


def test_published_figures_stand_in_the_row_relative_to_the_uncompressed_model() -> None:
    study = load_study("survey-2")
    (row,) = study.named(["tome-retrain"])
    facts = load_structure("autoformer_small").facts
    result = planned_result(study, row, facts, plan_row(study, row, facts, facts))
    assert result["published_top1_pct"] == "79.22"
    assert result["published_cost_share"] == f"{3.27 / 4.92:.4f}"
    assert result["published_relative_change_pct"] == f"{100 * (79.22 / 81.66 - 1):+.2f}"
    assert result["published_speedup"] == f"{1550 / 988:.3f}"
    assert result["published_on"] == "NVIDIA A6000, batch 128"
    assert result["note"] == "full-network retraining; epochs not stated"
    assert result["schedule"].startswith("0:187, 1:178")


def test_a_row_that_cannot_run_has_its_published_figures_alone() -> None:
    study = load_study("tofe-4")
    (row,) = study.named(["identity"])
    result = planned_result(study, row, load_structure("tiny").facts, None)
    assert result["published_top1_pct"] == "77.09"
    assert "macs_g" not in result


def test_figures_with_several_sources_are_all_taken() -> None:
    study = load_study("ltp-figures")
    (row,) = study.named(["ltp-half"])
    result = planned_result(study, row, load_structure("tiny").facts, None)
    assert (result["published_latency_ms"], result["published_memory_mb"]) == ("25.82", "520")
