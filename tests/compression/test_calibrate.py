"""Which configurations need thresholds found for them, and with which option they are stored."""

import pytest
import torch

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.calibrate import needs_calibration, needs_recalibration
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.adaptive import calibrated_within
from autotok.methods import get_method, list_methods
from autotok.methods.base import Count
from autotok.methods.thresholds import Calibrated
from autotok.testing import reduction_case as reduction_case

CALIBRATED = [name for name in list_methods() if issubclass(get_method(name), Calibrated)]


@pytest.mark.parametrize("name", CALIBRATED)
def test_methods_declare_the_option_that_calibration_stores(name: str) -> None:
    method = get_method(name)
    assert issubclass(method, Calibrated)
    assert method.count is Count.ADAPTIVE
    assert method.calibrates in {option.name for option in method.options}
    reducer = reduction_case(method, num_keep=8).reducer
    assert isinstance(reducer, Calibrated)
    assert method.calibrates in reducer.calibrated()


@pytest.mark.parametrize("name", CALIBRATED)
def test_amounts_without_thresholds_need_calibration(name: str) -> None:
    method = get_method(name)
    assert issubclass(method, Calibrated)
    option = method.calibrates
    assert needs_calibration(CompressionConfig(name, (Reduction(1, keep_ratio=0.5),)))
    assert needs_calibration(CompressionConfig(name, (Reduction(1, num_keep=8),)))
    assert not needs_calibration(CompressionConfig(name, (Reduction(1),)))
    given = (Reduction(1, num_keep=8, options={option: 1}),)
    assert not needs_calibration(CompressionConfig(name, given))
    reductions, default = (Reduction(1, num_keep=8),), get_method(name).resolve_options({})
    assert not needs_calibration(CompressionConfig(name, reductions, {option: 1}))
    assert needs_calibration(CompressionConfig(name, reductions, default))  # all spelt out


@pytest.mark.parametrize("name", ["ppt", "topk"])
def test_methods_of_fixed_counts_need_none_whatever_their_options_are_called(name: str) -> None:
    assert not needs_calibration(CompressionConfig(name, (Reduction(1, keep_ratio=0.5),)))


def test_thresholds_found_before_training_are_found_again_after_it_unless_it_learned_them() -> None:
    amounts = (Reduction(1, num_keep=8),)
    assert needs_recalibration(CompressionConfig("spvit", amounts))
    assert not needs_recalibration(CompressionConfig("ltmp", amounts))
    assert not needs_recalibration(CompressionConfig("dynamicvit", amounts))


@pytest.mark.parametrize("name", CALIBRATED)
def test_thresholds_of_a_model_in_half_precision_are_found_on_any_images(name: str) -> None:
    backbone = tiny_backbone().to(torch.bfloat16)
    model = compress_backbone(backbone, CompressionConfig(name, (Reduction(1, num_keep=8),)))
    found = calibrated_within(model, torch.randn(8, 3, 32, 32))
    assert not needs_calibration(found.config)
