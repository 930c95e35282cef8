"""What is measured runs on the device that was named, and comes back from it."""

import dataclasses

import pytest
import torch
from elsewhere import DEVICE, a_device_elsewhere
from torch.nn import Identity

from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.devices.measurement import Measurement
from autotok.predicting.measurers import DeviceMeasurer, InterleavedMeasurer

IMAGES = torch.zeros(1, 3, 8, 8)


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


def test_memory_that_holds_more_than_the_model_is_no_peak_to_fit() -> None:
    found = Measurement(
        latency_ms=1.0, p90_ms=1.0, mad_ms=0.0, runs=1, verdict="steady", reference_latency_ms=2.0,
        speedup=2.0, peak_memory_mb=700.0, memory_source="all that it holds", device="d",
        runtime="r", dtype="float32", batch=1, image_shape=(3, 8, 8), threads=1, when="now",
    )  # fmt: skip
    shared = dataclasses.replace(found, memory_alone=False)
    for reading, peak in ((found, 700.0), (shared, None)):
        measurer = DeviceMeasurer(lambda *_, said=reading: said, lambda _: None)  # type: ignore
        assert measurer.measure(Identity(), IMAGES, Identity(), seconds=0.0).peak_mb == peak
