"""Peak memory of one model in a process of its own."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_files import SHAPE, onnx_file
from torch import nn

from autotok.api.models import compress
from autotok.backbones.autoformer import AutoFormer
from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig
from autotok.devices import board
from autotok.devices import footprint as module
from autotok.devices.footprint import file_footprint, footprint, footprint_of
from autotok.errors import AutotokError

IMAGES = torch.zeros(1, 3, 32, 32)


@pytest.mark.slow
def test_a_model_handed_over_takes_what_it_takes_by_name_whatever_this_process_holds() -> None:
    model = compress(tiny_backbone(), method="topk", r=2)
    ballast = torch.ones(100_000_000)  # 400 MB
    handed = footprint_of(model, torch.zeros(64, 3, 32, 32), threads=1)
    named = footprint("tiny", model.config, batch=64, threads=1)
    assert len(ballast)
    assert handed == pytest.approx(named, rel=0.05)
    assert handed > 50


def test_a_view_of_a_supernet_is_measured_as_the_subnet_alone() -> None:
    view = SupernetView(AutoFormerSupernet(DEMO_SPEC), DEMO_SUBNET, name="autoformer_demo").eval()
    model = compress(view, CompressionConfig())
    alone = module._alone(model)
    assert isinstance(alone.backbone, AutoFormer)
    assert model.backbone is view
    assert isinstance(module._alone(view), AutoFormer)
    images = torch.rand(2, *view.facts.image_shape)
    with torch.inference_mode():
        torch.testing.assert_close(alone(images), model(images))
    plain = tiny_backbone()
    assert module._alone(plain) is plain


def test_a_model_that_cannot_be_handed_over_is_told_in_a_sentence() -> None:
    class Here(nn.Module):
        """Of this function, so no other process knows it."""

    with pytest.raises(AutotokError, match="memory of 'Here' could not be measured"):
        footprint_of(Here(), IMAGES, threads=1)


def test_a_process_that_ends_well_and_says_nothing_is_told_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = SimpleNamespace(returncode=0, stdout=b"a warning\n", stderr=b"")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(AutotokError, match="the process ended with 'a warning'"):
        footprint("tiny", CompressionConfig(), batch=1, threads=1)


@pytest.mark.slow
def test_a_process_that_ends_badly_is_told_with_its_last_words() -> None:
    with pytest.raises(AutotokError, match=r"memory of 'no_such' could not be measured: .*unknown"):
        footprint("no_such", CompressionConfig(), batch=1, threads=1)


def test_a_file_takes_what_its_runtime_takes_and_nothing_of_torch(tmp_path: Path) -> None:
    small, wide = (
        file_footprint(onnx_file(tmp_path / "m", width=w), "onnxruntime", SHAPE, threads=1)[0]
        for w in (16, 60_000)
    )
    peak, how = file_footprint(onnx_file(tmp_path / "m"), "onnxruntime", SHAPE, threads=1)
    assert how == "high-water mark of a process of its own, onnxruntime and weights included"
    assert peak == pytest.approx(small, abs=15)
    assert wide - small > 192 * 60_000 * 4 / 1e6 - 15
    assert small < board.high_water_mb() - 50  # this process holds torch


def test_an_openvino_file_is_read_alone_as_well(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    onnx_file(tmp_path / "m.onnx")
    openvino.save_model(openvino.Core().read_model(str(tmp_path / "m.onnx")), tmp_path / "m.xml")
    peak, how = file_footprint(tmp_path / "m.xml", "openvino", SHAPE, threads=1)
    assert "openvino and weights" in how
    assert 20 < peak < board.high_water_mb() - 50


def test_a_file_that_its_runtime_does_not_load_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(AutotokError, match=r"memory of 'bad.onnx' could not be measured: \w+: "):
        file_footprint(tmp_path / "bad.onnx", "onnxruntime", SHAPE, threads=1)
