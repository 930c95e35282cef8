"""table.md says what ran on what, where schedules are from, and what did not run."""

from autotok.studies.study_folder import OK, StudyQuestion
from autotok.studies.study_markdown import first_line, study_markdown
from autotok.studies.study_table import load_study

DEMO = StudyQuestion("ltp-1", "demo", "autoformer_demo", 20, 0, "auto")
RAN = {
    "row": "vit-s-ltp", "status": OK, "run_as": "plug-in", "cost_share": "0.55", "value": "80.00",
    "low_95": "70.00", "high_95": "90.00", "metric": "top1", "schedule": "0:106",
    "schedule_from": "stated: so", "measured": "measured (here)", "speedup": "1.9",
}  # fmt: skip
NOT_RUN = {"row": "vit-s-papr", "status": "not run: no weights", "note": "training-free"}


def test_the_table_has_every_row_and_says_what_stopped_some() -> None:
    table = study_markdown(load_study("ltp-1"), DEMO, [RAN, NOT_RUN])
    assert first_line(load_study("ltp-1"), DEMO) in table
    assert "| vit-s-ltp | plug-in | 0.55 | - | 80.00 [70.00, 90.00] top1 |" in table
    assert "| vit-s-papr | not run | - | - | - |" in table
    assert "- vit-s-papr: no weights" in table
    assert "- vit-s-ltp: 0:106 (stated: so)" in table
    assert "attention products left out" in table
    assert "Speed here: measured (here)." in table


def test_with_data_nothing_is_said_of_a_stand_in() -> None:
    asked = StudyQuestion("ltp-1", "photos", "", 20, 0, "auto")
    assert first_line(load_study("ltp-1"), asked) == "ltp-1 on photos"
