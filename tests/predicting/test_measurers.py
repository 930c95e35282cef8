"""What is measured runs on the device that was named, and comes back from it."""

import pytest
import torch
from elsewhere import DEVICE, a_device_elsewhere

from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.predicting.measurers import InterleavedMeasurer


def test_a_model_is_measured_on_the_device_and_is_home_again_afterwards() -> None:
    backbone = load_backbone("tiny").eval()
    model = compress_backbone(backbone, CompressionConfig("topk", (Reduction(1, 0.5),))).eval()
    images = torch.zeros(1, *backbone.facts.image_shape)
    with a_device_elsewhere() as recorder:
        sample = InterleavedMeasurer(DEVICE).measure(model, images, backbone, seconds=0.1)
    assert recorder.there["aten::addmm"] > 0
    assert sample.ratio > 0
    assert sample.peak_mb is None
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert torch.isfinite(model(images)).all()


def test_a_gpu_that_is_not_here_is_refused_before_anything_is_measured() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    from autotok.errors import ConfigError
    from autotok.predicting.calibration import calibrate

    with pytest.raises(ConfigError, match="device 'cuda' is not here; there is cpu"):
        calibrate(run_on="cuda")
