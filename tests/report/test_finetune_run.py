"""`autotok.finetune` in Python: what it takes, what it leaves alone."""

import dataclasses
from pathlib import Path

import pytest
import torch
from early import early_model

import autotok
from autotok import CompressionConfig, FineTuneSpec, Reduction
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.model import CompressedViT
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy
from autotok.report import finetune_run

SPEC = FineTuneSpec(length="2 steps", batch_size=4, lr=1e-5)
CONFIG = CompressionConfig("topk", (Reduction(1, num_keep=6),))


def test_a_compressed_model_is_tuned_as_a_copy_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model = autotok.compress(backbone, CONFIG)
    seen: list[tuple[float, str]] = []
    result = autotok.finetune(
        model, data="digits", spec=SPEC, num_images=20, on_progress=lambda *at: seen.append(at)
    )
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert result.model.config.mode == "retrain"
    assert result.model.config.finetune == SPEC
    assert result.model.config.plugged_in == CONFIG
    assert not torch.equal(result.model.backbone.model.head.weight, before["model.head.weight"])
    assert (result.before.finetuned, result.after.finetuned) == (False, True)
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []
    assert any("images/s" in text and "left" in text for _, text in seen)
    assert [share for share, _ in seen] == sorted(share for share, _ in seen)


def test_amounts_that_became_dearer_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dear = (Reduction(1, num_keep=15),)

    def learned(student: CompressedViT) -> CompressedViT:
        config = dataclasses.replace(student.config, reductions=dear)
        return reconfigured(student, config)

    autotok.finetune(CONFIG, data="digits", backbone="tiny", spec=SPEC, num_images=10)
    assert "learned amounts" not in caplog.text
    monkeypatch.setattr(finetune_run, "emitted", learned)
    autotok.finetune(CONFIG, data="digits", backbone="tiny", spec=SPEC, num_images=10)
    assert "learned amounts of" in caplog.text
    assert "and those given are of" in caplog.text


def test_a_configuration_is_tuned_on_a_backbone_by_name() -> None:
    result = autotok.finetune(CONFIG, data="digits", backbone="tiny", spec=SPEC, num_images=10)
    assert result.done.steps == 2
    assert result.to_dict()["num_images"] == 10


def test_models_that_cannot_be_tuned_are_refused_in_one_sentence() -> None:
    backbone = tiny_backbone()
    with pytest.raises(ConfigError, match="the model is not compressed"):
        autotok.finetune(backbone, data="digits")
    retrained = CompressionConfig("topk", CONFIG.reductions, mode="retrain")
    with pytest.raises(ConfigError, match="fine-tuned already"):
        autotok.finetune(autotok.compress(backbone, retrained), data="digits")
    folding = CompressionConfig("tocom", (Reduction(1, 0.5),), {"adapters": "gone.safetensors"})
    loaded = compress_backbone(backbone, folding, is_folded=True)
    with pytest.raises(ConfigError, match=r"adapters are folded .* give its best\.yaml"):
        autotok.finetune(loaded, data="digits")


def test_a_retrained_best_yaml_is_not_put_onto_other_weights(tmp_path: Path) -> None:
    from autotok.evaluation.preprocessing import preprocessing_of
    from autotok.export.best_yaml import BackboneRef, Bundle
    from autotok.export.bundle import save_bundle

    backbone = tiny_backbone()
    config = CompressionConfig("topk", CONFIG.reductions, mode="retrain", finetune=SPEC)
    model = autotok.compress(backbone, config)
    bundle = Bundle(
        BackboneRef.of(backbone.facts), config, preprocessing_of(backbone).to_dict(), {}
    )
    save_bundle(tmp_path / "best", model, bundle, torch.zeros(1, 3, 32, 32), formats=())
    with pytest.raises(ConfigError, match="was fine-tuned, so it needs its own weights"):
        autotok.compress(backbone, tmp_path / "best")


def test_heads_that_were_trained_on_stop_at_another_threshold_for_the_same_mean_cost() -> None:
    whole = autotok.macs(tiny_backbone(6)).macs
    policy = ExitPolicy((1, 3), threshold=(0.2,), mean_macs=round(0.7 * whole))
    spec = FineTuneSpec(length="4 steps", batch_size=8, lr=0.01, losses={"exits_distill": 1.0})
    model = early_model(policy)
    result = autotok.finetune(model, data="digits", spec=spec, num_images=200)
    exits = result.model.config.exits
    assert exits is not None
    assert exits.mean_macs == policy.mean_macs
    assert exits.threshold != policy.threshold
    assert result.after.macs_mean == pytest.approx(policy.mean_macs, rel=0.1)
