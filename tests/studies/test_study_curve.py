"""curve.png: a line per method that ran."""

from pathlib import Path

from autotok.studies.study_curve import draw_curve
from autotok.studies.study_folder import OK
from autotok.studies.study_table import load_study

BASE = {
    "row": "uncompressed", "status": OK, "method": "none", "published_mode": "uncompressed",
    "cost_share": "1", "value": "80", "low_95": "70", "high_95": "90", "metric": "top1",
}  # fmt: skip


def test_a_picture_is_drawn_of_what_ran_and_none_of_nothing(tmp_path: Path) -> None:
    study, path = load_study("ltp-figures"), tmp_path / "curve.png"
    draw_curve(path, study, [BASE], "title")
    assert not path.exists()
    half = BASE | {"method": "ltp", "published_mode": "plug-in", "cost_share": "0.5", "value": "60"}
    draw_curve(path, study, [BASE, half | {"status": OK}], "title")
    assert path.read_bytes().startswith(b"\x89PNG")
