"""Every number of a target has its source."""

from pathlib import Path

import pytest
import yaml

from autotok.errors import ConfigError
from autotok.predicting.target import load_target


def shipped(name: str) -> str:
    import autotok.predicting

    folder = Path(autotok.predicting.__file__).parent / "targets"
    return (folder / f"{name}.yaml").read_text("utf-8")


def test_a_source_is_required_and_must_say_something(tmp_path: Path) -> None:
    data = yaml.safe_load(shipped("local"))
    data["memory_mb"] = {"value": 8192, "source": " "}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="memory_mb: source must say where"):
        load_target(path)
