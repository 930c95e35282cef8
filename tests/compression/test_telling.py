"""Models of thresholds that run without any say so, once."""

import dataclasses

import pytest
import torch

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.calibrate import calibrate_thresholds
from autotok.compression.telling import missing_thresholds
from autotok.counting.counter import count_macs
from autotok.methods import list_methods
from autotok.methods.registry import get_method
from autotok.methods.thresholds import Calibrated

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_model_that_runs_without_thresholds_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = autotok.compress(tiny_backbone(), method="asvit", keep={1: 0.5})
    count_macs(model)
    assert not caplog.messages  # on the meta device counts are nominal, as said
    model(IMAGES)
    model(IMAGES)
    (told,) = caplog.messages
    assert told == missing_thresholds(model.config)
    assert told.startswith("method 'asvit' is given amounts and no thresholds, so images keep")


def test_a_model_whose_thresholds_were_found_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = autotok.compress(tiny_backbone(), method="asvit", keep={1: 0.5})
    calibrate_thresholds(model, IMAGES)
    model(IMAGES)
    autotok.compress(tiny_backbone(), model.config)(IMAGES)
    autotok.compress(tiny_backbone(), method="topk", keep={1: 0.5})(IMAGES)
    assert not caplog.messages


@pytest.mark.parametrize("name", list_methods())
def test_methods_of_thresholds_alone_miss_them_unless_training_left_some(name: str) -> None:
    amounts = (autotok.Reduction(1, keep_ratio=0.5),)
    config = autotok.CompressionConfig(name, amounts)
    assert bool(missing_thresholds(config)) == issubclass(get_method(name), Calibrated)
    assert not missing_thresholds(dataclasses.replace(config, mode="retrain"))
