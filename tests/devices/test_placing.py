"""Where models run: names, and a device of its own that refuses what a GPU would refuse."""

from pathlib import Path

import pytest
import torch
import yaml
from elsewhere import DEVICE, Elsewhere, a_device_elsewhere

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.devices.device import open_device
from autotok.devices.placing import gpus_to_share, torch_device
from autotok.errors import UsageError
from autotok.evaluation.accuracy import ACCELERATOR_BATCH
from autotok.finetune_spec import FineTuneSpec
from autotok.methods import get_method, list_methods, unmet_need
from autotok.methods.image_scoring import ImageScoring
from autotok.searching.running.question import Question, check_names
from autotok.testing import example_config
from autotok.testing.reduction_case import stand_in

EVIT = CompressionConfig("evit", (Reduction(1, keep_ratio=0.5),))


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert torch_device("auto") == torch_device("cuda") == torch.device("cuda", 0)
    assert torch_device("cuda:2") == torch.device("cuda", 2)


def test_workers_share_the_gpus_that_the_user_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_to_share("auto") == gpus_to_share("cuda") == ["0", "1"]
    assert gpus_to_share("cpu") == gpus_to_share("cuda:1") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert gpus_to_share("auto") == ["5", "3"]


@pytest.mark.parametrize("name", ["locale", "gpu", "ray:", "ray:b@", "ssh://", "local?runs=x"])
def test_what_a_search_would_refuse_to_time_on_no_verb_opens(name: str) -> None:
    with pytest.raises(UsageError) as of_the_search:
        check_names(Question(measure_on=name))
    with pytest.raises(UsageError) as of_the_device:
        open_device(name)
    assert str(of_the_search.value) == str(of_the_device.value)
    assert name in str(of_the_device.value)


@pytest.mark.parametrize("name", list_methods())
def test_every_method_runs_where_its_model_is(name: str) -> None:
    backbone = tiny_backbone()
    if unmet_need(get_method(name), backbone.facts) is not None:
        return
    config = example_config(get_method(name), backbone.facts)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def made() -> torch.nn.Module:
        torch.manual_seed(0)
        model = compress_backbone(backbone, config)
        for reducer in model.reducers.values():
            if isinstance(reducer, ImageScoring):
                reducer.network = stand_in()
        return model.eval()

    with torch.no_grad():
        expected = made()(images)
    with a_device_elsewhere() as recorder, torch.no_grad():
        backbone.to(DEVICE)
        found = made()(images.to(DEVICE))
        assert isinstance(found, Elsewhere)
        assert torch.allclose(found.cpu(), expected, atol=1e-5)
    assert recorder.there["aten::linear"] + recorder.there["aten::addmm"] > 0


def test_an_evaluation_runs_there_and_leaves_the_model_here() -> None:
    model = compress_backbone(tiny_backbone(), EVIT)
    here = autotok.evaluate(model, "digits", metric="kl", num_images=40)
    with a_device_elsewhere() as recorder:
        there = autotok.evaluate(model, "digits", metric="kl", num_images=40, device="cuda")
    assert there.value == pytest.approx(here.value, rel=1e-5)
    assert next(model.parameters()).device.type == "cpu"
    batches = [shape for shape in recorder.sent if shape[1:] == (3, 32, 32)]
    assert batches == [(40, 3, 32, 32)]  # no more than ACCELERATOR_BATCH: in one piece
    assert ACCELERATOR_BATCH >= 40


@pytest.mark.slow
def test_a_fine_tune_trains_there_and_its_files_are_written_here(tmp_path: Path) -> None:
    spec = FineTuneSpec(length="3 steps", batch_size=8, lr=1e-4)
    with a_device_elsewhere() as recorder:
        result = autotok.finetune(
            compress_backbone(tiny_backbone(), EVIT), data="digits", spec=spec, num_images=16,
            precision="float32", device="cuda", output=tmp_path / "there",
        )  # fmt: skip
    assert recorder.there["aten::convolution_backward"] == 3
    assert result.done.steps == 3
    here = autotok.finetune(
        compress_backbone(tiny_backbone(), EVIT), data="digits", spec=spec, num_images=16,
        precision="float32",
    )  # fmt: skip
    assert result.done.loss == pytest.approx(here.done.loss, rel=1e-3)
    kept = autotok.load_bundle(tmp_path / "there" / "best.yaml")
    assert next(kept.parameters()).device.type == "cpu"


@pytest.mark.slow
def test_a_search_runs_there_and_finds_what_it_finds_here(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    asked = {"data": "digits", "budget": "60%", "max_images": 24, "quality": "kl"}
    space = tmp_path / "space.yaml"  # 200 steps on such a device take minutes
    space.write_text("mode: [plug-in, retrain]\nfinetune: {length: 12 steps}\n", "utf-8")
    asked |= {"n_trials": 4, "retrain_trials": 1, "timeout_s": None, "space": space}
    with a_device_elsewhere() as recorder:
        there = autotok.search("tiny", **asked, device="cuda", output=tmp_path / "there")
    assert recorder.there["aten::convolution_backward"] > 0
    request.getfixturevalue("no_onnx")  # from here on
    here = autotok.search("tiny", **asked, output=tmp_path / "here")
    assert there.front["method"].iloc[0] == here.front["method"].iloc[0]
    question = yaml.safe_load((there.directory / "config.yaml").read_text())["question"]
    assert question["device"] == "cuda"
    assert "--device cuda" in (there.directory / "report.html").read_text()
    assert (there.directory / "best" / "model.onnx").is_file()
    more = autotok.resume(there.directory, n_trials=5, device="cpu")
    assert more.config["question"]["device"] == "cpu"
