"""Tables, picture and page of a finished run, written again."""

from pathlib import Path

import pytest

from autotok.errors import RunDirectoryError
from autotok.report.pages import write_again
from autotok.report.run import Run


def test_everything_is_written_again_from_the_study_as_it_was(own_run: Path) -> None:
    names = ("pareto.json", "pareto.csv", "pareto.png", "report.html")
    before = {name: (own_run / name).read_bytes() for name in names}
    for name in names:
        (own_run / name).unlink()
    write_again(Run(own_run))
    assert {name: (own_run / name).read_bytes() for name in names} == before


def test_a_damaged_table_is_mended_and_without_a_study_it_is_told(own_run: Path) -> None:
    table = own_run / "pareto.json"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    write_again(Run(own_run))
    assert table.read_bytes() == whole
    table.unlink()
    (own_run / "study.log").unlink()
    with pytest.raises(RunDirectoryError, match="is not finished"):
        write_again(Run(own_run))
