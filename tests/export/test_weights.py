"""Weights beside a configuration."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from early import early_model
from early import images as early_images
from exporting import CONFIG, images, made
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))

from hf_models import hf_backbone

from autotok.api.models import compress
from autotok.backbones.autoformer import SupernetSpec
from autotok.backbones.base import Backbone
from autotok.backbones.size_tables import add_size_tables, listed_sides
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.exits import ExitPolicy
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import bundle_structure, load_bundle, load_uncompressed, save_bundle
from autotok.export.exported import export_model
from autotok.finetune_spec import FineTuneSpec
from autotok.pruned_spec import PrunedSpec, units_text


def test_saved_weights_carry_the_names_timm_uses(tmp_path: Path) -> None:
    model, bundle = made()
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    saved = load_file(tmp_path / "best" / "weights.safetensors")
    assert saved.keys() == tiny_backbone().model.state_dict().keys()


TUNED = dataclasses.replace(CONFIG, mode="retrain", finetune=FineTuneSpec(length="20 steps"))


def test_the_weights_of_a_subnet_say_which_supernet_they_are_of(tmp_path: Path) -> None:
    spec = SupernetSpec(
        embed_dim=16, depth=2, heads=2, mlp_ratio=2.0, embed_choices=(8, 16), depth_choices=(2,),
        heads_choices=(1, 2), mlp_ratio_choices=(1.0, 2.0), image_shape=(3, 32, 32), patch_size=8,
        num_classes=10, head_dim=8,
    )  # fmt: skip
    view = SupernetView(AutoFormerSupernet(spec), spec.smallest(), name="autoformer_custom")
    config = dataclasses.replace(TUNED, reductions=CONFIG.reductions[:1], subnet=spec.smallest())
    model = compress_backbone(view, config).eval()
    ref = BackboneRef.of(view.facts)
    bundle = Bundle(ref, model.config, preprocessing_of(view).to_dict())
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    with torch.inference_mode():
        torch.testing.assert_close(load_bundle(tmp_path / "best")(images()), model(images()))


def pruned_to(config: CompressionConfig) -> tuple[CompressedViT, Bundle]:
    model = compress_backbone(tiny_backbone(), config).eval()
    ref = BackboneRef.of(model.backbone.whole.facts)
    return model, Bundle(ref, config, preprocessing_of(model.backbone).to_dict())


SPEC = PrunedSpec((0, 2, 3), ((0, 1), (2,), (0, 2)), ("f" * 8 + "0" * 40,) * 3)


def test_a_pruned_plug_in_keeps_the_uncompressed_model_in_its_bundle(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, reductions=CONFIG.reductions[:1], subnet=SPEC)
    model, bundle = pruned_to(config)
    save_bundle(tmp_path / "best", model, bundle, images(), formats=())
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path / "best")(images()), model(images()))
        whole = load_uncompressed(tmp_path / "best")
        assert torch.equal(whole(images()), tiny_backbone()(images()))
        plain = compress(tiny_vit(), tmp_path / "best" / "config.yaml")
        assert torch.equal(plain(images()), model(images()))
    assert bundle_structure(tmp_path / "best").backbone.facts == model.backbone.facts


@pytest.mark.slow
@pytest.mark.parametrize("whole", [tiny_backbone, lambda: hf_backbone("CLIPVisionModel")])
def test_the_exported_file_of_a_pruned_model_equals_it(
    whole: Callable[[], Backbone], tmp_path: Path
) -> None:
    backbone = whole()
    units = units_text([0, 1, 5], backbone.facts.blocks[0].hidden)
    spec = dataclasses.replace(SPEC, units=(units,) * 3)
    config = dataclasses.replace(CONFIG, reductions=CONFIG.reductions[:1], subnet=spec)
    model = compress_backbone(backbone, config).eval()
    found = export_model(model, tmp_path / "model.onnx", images())
    assert found.ok
    assert found.max_abs_diff < 1e-5


def test_fine_tuned_weights_of_a_pruned_model_are_found_again(tmp_path: Path) -> None:
    config = CompressionConfig(mode="retrain", finetune=TUNED.finetune, subnet=SPEC)
    model, bundle = pruned_to(config)
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.mul_(1.1)  # as a fine-tune would
        save_bundle(tmp_path / "best", model, bundle, images(), formats=())
        torch.testing.assert_close(load_bundle(tmp_path / "best")(images()), model(images()))


def test_heads_of_exits_come_back_with_the_bundle(tmp_path: Path) -> None:
    policy = ExitPolicy((1, 2), ("local", "linear"), threshold=(0.3,))
    made = early_model(policy, backbone=tiny_backbone())
    config = dataclasses.replace(made.config, mode="retrain")
    bundle = Bundle(BackboneRef.of(made.backbone.facts, name="tiny"), config, {})
    made.config = config
    checks = save_bundle(tmp_path / "best", made, bundle, early_images(), formats=("torchscript",))
    assert len(checks["exports"]["torchscript"]["parts"]) == 3
    again = load_bundle(tmp_path / "best")
    with torch.no_grad():
        torch.testing.assert_close(again(early_images()), made(early_images()))
    assert "exits.safetensors" in (tmp_path / "best" / "README.md").read_text()


@torch.inference_mode()
def test_a_bundle_holds_the_position_tables_of_every_size(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    add_size_tables(backbone, (16, 24))
    backbone.model.get_parameter("pos_embed_by_size.24").fill_(0.5)
    config = CompressionConfig("supervit", (Reduction(1, num_keep=5),), image_size=24)
    model = compress_backbone(backbone, config)
    bundle = Bundle(BackboneRef.of(backbone.facts, name="tiny"), config, {})
    results = save_bundle(tmp_path / "best", model, bundle, images(), formats=("torchscript",))
    assert results["exports"]["torchscript"]["ok"]
    again = load_bundle(tmp_path / "best")
    assert torch.equal(again(images()), model(images()))
    assert not torch.equal(again(images()), compress_backbone(tiny_backbone(), config)(images()))
    assert listed_sides(again.original.whole.weights.state_dict()) == [16, 24]
