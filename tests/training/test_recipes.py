"""One word, or one file, sets what a paper trains with."""

from pathlib import Path

import pytest

from autotok.errors import ConfigError, UnknownName
from autotok.finetune_spec import FineTuneSpec
from autotok.training.recipes import list_recipes, recipe_settings


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_a_spec_that_differs_from_the_usual(name: str) -> None:
    spec = FineTuneSpec.from_dict(recipe_settings(name, labelled=True))
    assert spec.varies
    assert spec.label_smoothing > 0
    assert recipe_settings(name, labelled=False)["label_smoothing"] == 0


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("mixup: 0.2\nlosses: {soft: 2}\nlr: auto\n")
    found = recipe_settings(str(path), labelled=False)
    assert found == {"mixup": 0.2, "losses": {"soft": 2}, "lr": None}


def test_an_unknown_recipe_and_a_wrong_key_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="recipe 'deiit' is unknown; did you mean 'deit'"):
        recipe_settings("deiit", labelled=True)
    (tmp_path / "own.yaml").write_text("mix_up: 0.2\n")
    with pytest.raises(ConfigError, match=r"mix_up.*mixup"):
        recipe_settings(str(tmp_path / "own.yaml"), labelled=True)
