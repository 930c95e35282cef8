"""`best.yaml` says what it means, and what it cannot mean is refused by key."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from exporting import made

from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ConfigError
from autotok.export.best_yaml import read_best, write_best


def test_best_yaml_round_trips(tmp_path: Path) -> None:
    _, bundle = made()
    path = write_best(tmp_path / "best.yaml", bundle)
    back = read_best(path)
    assert back.config == bundle.config
    assert back.backbone == bundle.backbone
    assert back.preprocessing == bundle.preprocessing
    assert back.evidence == {"top1_pct": 91.5, "macs_g": 0.5}
    assert path.read_text().startswith("# Found by autotok")


def test_counts_made_for_another_grid_are_refused() -> None:
    _, bundle = made()
    facts = tiny_backbone().facts
    bundle.check_fits(facts)
    with pytest.raises(ConfigError, match=r"grid 4x4.*grid 8x8"):
        bundle.check_fits(dataclasses.replace(facts, grid=(8, 8)))
    with pytest.raises(ConfigError, match=r"4 blocks.*has 6 blocks"):
        bundle.check_fits(tiny_backbone(6).facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"confg": {}}, "key 'confg' is unknown; did you mean 'config'"),
        ({"config": {"method": "topk", "reduction": []}}, "did you mean 'reductions'"),
        ({"backbone": {"name": "tiny"}}, "backbone: lacks the key 'num_blocks'"),
    ],
)
def test_an_edited_best_yaml_is_refused_naming_the_key(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    data = {**made()[1].to_dict(), "evidence": {}, **change}
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=message):
        read_best(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("", "must be a mapping"), ("format: 1", "lacks the key")],
)
def test_what_is_no_best_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_best(path)


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text("format: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="is not allowed; leave it out"):
        read_best(path)


def test_a_missing_best_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_best(tmp_path)
