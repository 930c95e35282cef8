"""What a finished run's files say, held to the types they were written with."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotok.errors import RunDirectoryError
from autotok.report.run import Run

STUDY = Path(__file__).parents[2] / "studies/default/pareto.json"


@pytest.mark.parametrize(
    ("key", "wrong"), [("layers", "abc"), ("number", "x"), ("costs", {"macs": []}), ("seconds", [])]
)
def test_a_wrong_type_in_pareto_json_names_file_and_key(
    key: str, wrong: Any, tmp_path: Path
) -> None:
    data = json.loads(STUDY.read_text("utf-8"))
    data["front"][1][key] = wrong
    (tmp_path / "config.yaml").touch()
    (tmp_path / "pareto.json").write_text(json.dumps(data))
    with pytest.raises(RunDirectoryError, match=rf"pareto\.json.*front\[1\]\.{key}"):
        Run(tmp_path).records()
