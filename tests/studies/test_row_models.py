"""What rows run with: steps of a fine-tune, and weights that were given or not."""

import dataclasses
from pathlib import Path

import pytest

from autotok.config import CompressionConfig
from autotok.errors import AutotokError, CheckpointError, IncompatibleMethod
from autotok.studies.row_models import STAND_IN, RowModels, RowSetting
from autotok.studies.study_table import StudyRow

SETTING = RowSetting("digits", False, 10, 0, "float32", "cpu", None, {})
TRAINED = StudyRow("t", "tiny", "tome", mode="retrain")
LEARNED = StudyRow("l", "tiny", "dynamicvit", mode="unstated")
MAE = StudyRow("m", "tiny", weights="Tiny-MAE")


def test_what_the_source_retrained_and_what_must_be_trained_gets_the_steps() -> None:
    asked = dataclasses.replace(SETTING, finetune_steps=5)
    assert [asked.steps(row) for row in (TRAINED, LEARNED, MAE)] == [5, 5, 0]
    assert SETTING.steps(TRAINED) == 0
    with pytest.raises(IncompatibleMethod, match="method 'dynamicvit' has parameters that must"):
        SETTING.steps(LEARNED)


def test_the_stand_in_takes_the_place_of_every_backbone() -> None:
    assert SETTING.backbone_name(MAE) == "tiny"
    assert dataclasses.replace(SETTING, is_stand_in=True).backbone_name(MAE) == STAND_IN


def test_weights_without_a_name_are_asked_for_once(tmp_path: Path) -> None:
    models, said = RowModels(SETTING, tmp_path), []
    for _ in range(2):
        with pytest.raises(CheckpointError, match="weights 'Tiny-MAE' are under no name") as caught:
            models.judge(MAE, CompressionConfig(), 0)
        said.append(caught.value)
    assert said[0] is said[1]
    assert isinstance(said[0], AutotokError)


def test_the_same_configuration_is_judged_once(tmp_path: Path) -> None:
    models = RowModels(SETTING, tmp_path)
    row = StudyRow("u", "tiny")
    first = models.judge(row, CompressionConfig(), 0)
    assert models.judge(dataclasses.replace(row, name="v"), CompressionConfig(), 0) is first
    assert first.quality.value == first.uncompressed.value
