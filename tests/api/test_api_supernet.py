"""Subnets in words, files and JSON."""

import json
from pathlib import Path

import pytest
import yaml

from autotok.api.supernet import SubnetQuestion, parse_subnet, search_subnets
from autotok.backbones.autoformer import SupernetSpec
from autotok.config import SubnetSpec
from autotok.errors import ConfigError, RunDirectoryError

SPEC_DATA = {
    "embed_dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "head_dim": 4, "max_offset": 2,
    "embed_choices": [8, 16], "depth_choices": [1, 2], "heads_choices": [1, 2],
    "mlp_ratio_choices": [1.0, 2.0], "image_shape": [1, 8, 8], "patch_size": 4, "num_classes": 10,
}  # fmt: skip

SPEC = SupernetSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in SPEC_DATA.items()})  # type: ignore[arg-type]


def test_subnets_are_read_from_words_files_and_json(tmp_path: Path) -> None:
    default = SubnetSpec(8, (1, 2), (1.0, 2.0))
    assert parse_subnet("default", SPEC, default) == default
    assert parse_subnet("random:1", SPEC, default) == parse_subnet("random:1", SPEC, default)
    plain = {"embed_dim": 8, "heads": [1, 2], "mlp_ratios": [1.0, 2.0]}
    for data in (plain, {"subnet": plain}, {"config": {"method": "none", "subnet": plain}}):
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(data))
        assert parse_subnet(str(path), SPEC, default) == default
        assert parse_subnet(json.dumps(data), SPEC, default) == default


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("random", "random:SEED"),
        ("none.yaml", "does not exist; give a YAML file"),
        ("{", "subnet:1: is not valid YAML"),
        ('{"embed_dim": 8}', "lacks the key 'heads'"),
        ('{"embed": 8}', "key 'embed' is unknown"),
        ('{"embed_dim": 8, "heads": 3, "mlp_ratios": [1]}', "subnet:1: heads: must be a list"),
        ('{"embed_dim": 8, "heads": [1], "mlp_ratios": [1, 2]}', "one entry per layer"),
        ('{"embed_dim": 99, "heads": [1], "mlp_ratios": [1]}', "holds at most 16"),
        ('{"method": "tome", "subnet": null}', "must be a mapping"),
    ],
)
def test_a_subnet_that_cannot_be_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_subnet(text, SPEC, SubnetSpec(8, (1,), (1.0,)))
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_search_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "candidates.jsonl").write_text("{}")
    monkeypatch.setattr("autotok.api.supernet.load_supernet", None)
    with pytest.raises(RunDirectoryError, match="holds a subnet search already; go on with"):
        search_subnets(SubnetQuestion(budgets=("50%",)), tmp_path)
