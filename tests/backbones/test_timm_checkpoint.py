"""Every layout of timm's ViTs loads under a plain name as the model it was, or is refused."""

import argparse
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_vits import DISTILLED, LAYOUTS, PLAIN, SMALL, drawn, layout
from torch import Tensor, nn

from autotok.backbones.loading import load_backbone
from autotok.backbones.timm_vit import TimmViT, VisionTransformer, timm, under_both
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import CheckpointError
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import load_bundle, save_bundle

Weights = dict[str, Tensor]


def weights(model: nn.Module) -> Weights:
    return {key: value.clone() for key, value in model.state_dict().items()}


def saved(folder: Path, data: object) -> Path:
    path = folder / "weights.pth"
    torch.save(data, path)
    return path


@torch.no_grad()
def same(path: Path, model: Any, name: str = PLAIN) -> TimmViT:
    """What the file loads as, proven to give the model's own outputs."""
    found = load_backbone(name, checkpoint=path)
    assert isinstance(found, TimmViT)
    images = torch.randn(2, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    torch.testing.assert_close(found(images), model(images), atol=1e-5, rtol=1e-5)
    return found


def refusal(path: Path, name: str = PLAIN, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        load_backbone(name, checkpoint=path, **options)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


@pytest.mark.parametrize("word", LAYOUTS)
def test_the_file_decides_what_the_name_leaves_open(word: str, tmp_path: Path) -> None:
    model = layout(word)
    found = same(saved(tmp_path, {"model": weights(model)}), model)
    second = tmp_path / "again.safetensors"
    save_file(weights(found.model), second)  # as a bundle writes it
    again = same(second, model)
    assert again.facts == found.facts


def test_the_distilled_model_loads_under_its_name_and_no_other(tmp_path: Path) -> None:
    model = drawn(timm.create_model(DISTILLED, num_classes=7))
    path = saved(tmp_path, {"model": weights(model)})
    same(path, model, DISTILLED)
    assert "'dist_token' has no place in it" in refusal(path)
    plain = saved(tmp_path, weights(layout("plain")))
    assert "'dist_token' is missing" in refusal(plain, DISTILLED)


def test_deit_3_files_under_their_own_names_load(tmp_path: Path) -> None:
    model = layout("DeiT-3")
    official = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", k): v for k, v in weights(model).items()}
    assert "blocks.0.gamma_1" in official
    same(saved(tmp_path, {"model": official}), model)


def test_dinov2_files_under_their_own_names_load(tmp_path: Path) -> None:
    model = layout("DINOv2 with registers")
    official = weights(model)
    official["register_tokens"] = official.pop("reg_token")
    first = torch.randn(1, 1, 64)  # DINOv2 adds a position to the class token
    official["pos_embed"] = torch.cat([first, official["pos_embed"]], dim=1)
    official["cls_token"] -= first
    official["mask_token"] = torch.randn(1, 64)
    same(saved(tmp_path, official), model)


def test_dinov2s_linear_classifiers_load_with_the_head_that_reads_both(tmp_path: Path) -> None:
    model: Any = under_both(layout("DINOv2 with registers"))
    drawn(model, seed=1)
    own = weights(model)
    official = {f"backbone.{k}": v for k, v in own.items() if not k.startswith("head")}
    official |= {f"linear_head.{part}": own[f"head.{part}"] for part in ("weight", "bias")}
    found = same(saved(tmp_path, official), model)
    assert found.facts.pooling == "cls+mean"
    again = tmp_path / "again.safetensors"
    save_file(weights(found.model), again)
    same(again, model)
    config = CompressionConfig("tome", (Reduction(0, num_keep=9),))
    compressed = compress_backbone(found, config)
    assert count_macs(compressed) == cost(found.facts, config).macs


def test_dinov2_giants_gated_mlp_loads(tmp_path: Path) -> None:
    packed = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2.67}
    model = drawn(VisionTransformer(**{**SMALL, **packed}))
    words = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    official = {"mask_token": torch.randn(1, 64)}
    for key, value in weights(model).items():
        for ours, theirs in words.items():
            key = key.replace(ours, theirs)
        official[key] = value
    same(saved(tmp_path, official), model)


def test_clip_files_under_openais_names_load(tmp_path: Path) -> None:
    model: Any = layout("CLIP")
    nn.init.zeros_(model.head.bias)
    own = weights(model)
    official = {
        "visual.class_embedding": own["cls_token"][0, 0],
        "visual.positional_embedding": own["pos_embed"][0],
        "visual.conv1.weight": own["patch_embed.proj.weight"],
        "visual.proj": own["head.weight"].T,
        "transformer.resblocks.0.ln_1.weight": torch.ones(3),  # the text tower's
        "logit_scale": torch.ones(()),
    }
    words = {
        "norm_pre": "ln_pre", "blocks.": "transformer.resblocks.", "norm1": "ln_1",
        "norm2": "ln_2", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    for key, value in own.items():
        theirs = re.sub(r"^norm\.", "ln_post.", key)
        for ours, word in words.items():
            theirs = theirs.replace(ours, word)
        if theirs.startswith(("ln_", "transformer.")):
            official[f"visual.{theirs}"] = value
    same(saved(tmp_path, official), model)


def _ema(raw: Weights) -> Weights:
    return {key: value + 1 for key, value in raw.items()}


NAMESPACE = argparse.Namespace(lr=np.float64(1e-3), output_dir=Path("out"), betas=(0.9, 0.95))
LAYERS = {
    "as saved": lambda own: own,
    "DeiT": lambda own: {
        "model": own, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "lr_scheduler": {"last_epoch": 3}, "epoch": 299, "scaler": {}, "args": NAMESPACE,
    },
    "MAE": lambda own: {
        "model": {**own, "mask_token": torch.ones(1, 1, 64), "decoder_pos_embed": torch.ones(9),
                  "decoder_blocks.0.norm1.weight": torch.ones(9)},
        "args": NAMESPACE,
    },
    "averaged": lambda own: {"model": _ema(own), "model_ema": own, "args": NAMESPACE},
    "timm's train.py": lambda own: {
        "state_dict": _ema(own), "state_dict_ema": own, "args": NAMESPACE, "version": 2,
        "arch": "vit", "metric": np.float64(81.5),
    },
    "no average yet": lambda own: {"model": own, "model_ema": None},
    "data-parallel": lambda own: {"state_dict": _prefixed(own, "module.")},
    "compiled": lambda own: _prefixed(own, "_orig_mod."),
    "compiled, data-parallel": lambda own: {"model": _prefixed(own, "module._orig_mod.")},
    "AveragedModel": lambda own: {"n_averaged": torch.tensor(5), **_prefixed(own, "module.")},
    "Lightning": lambda own: {"state_dict": _prefixed(own, "model."), "callbacks": {"a": 1}},
    "under another model": lambda own: {
        "model": {**_prefixed({k: v for k, v in own.items() if k[:4] != "head"}, "backbone."),
                  "head.weight": own["head.weight"], "head.bias": own["head.bias"]},
    },
    "nested": lambda own: {"model": {"state_dict": {"model": _prefixed(own, "encoder.")}}},
    "DINO": lambda own: {
        "student": _prefixed(_ema(own), "module.backbone."),
        "teacher": {**_prefixed(own, "backbone."), "head.mlp.0.weight": torch.ones(2, 2)},
        "epoch": 100, "args": NAMESPACE,
    },
    "two models": lambda own: _prefixed(_ema(own), "student.") | _prefixed(own, "teacher."),
    "a distillation": lambda own: {"model": own, "teacher": _ema(own)},
    "half precision": lambda own: {key: value.half() for key, value in own.items()},
    "parameters": lambda own: {key: nn.Parameter(value) for key, value in own.items()},
}  # fmt: skip


def _prefixed(tensors: Mapping[str, Tensor], prefix: str) -> Weights:
    return {prefix + key: value for key, value in tensors.items()}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("word", LAYERS)
def test_whatever_is_wrapped_around_the_weights_is_peeled(
    word: str, legacy: bool, tmp_path: Path
) -> None:
    model = layout("MAE, fine-tuned")
    own = weights(model)
    if word == "half precision":
        model.load_state_dict({key: value.half() for key, value in own.items()})
    path = tmp_path / "weights.pth"
    torch.save(LAYERS[word](own), path, _use_new_zipfile_serialization=not legacy)
    same(path, model)


@pytest.mark.parametrize("word", ["averaged", "timm's train.py", "DINO", "two models"])
def test_averaged_weights_are_taken_and_said(
    word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path, LAYERS[word](weights(layout("plain"))))
    with caplog.at_level(logging.WARNING, "autotok"):
        load_backbone(PLAIN, checkpoint=path)
    assert "taking the averaged weights" in caplog.text


def test_what_the_file_showed_and_what_was_passed_over_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = weights(layout("LayerScale")) | {"decoder_embed.weight": torch.ones(2)}
    with caplog.at_level(logging.INFO, "autotok"):
        load_backbone(PLAIN, checkpoint=saved(tmp_path, own))
    assert "init_values" in caplog.text
    assert "passing over 'decoder_embed.weight'" in caplog.text


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("blocks.1.ls1.gamma", "blocks.0.ls1.gamma"),  # which the first block lacks
        ("fc_norm.weight", "fc_norm.bias"),
        ("blocks.2.norm1.weight", "blocks.2.norm1.weight"),
        ("pre_logits.fc.weight", "pre_logits.fc.weight"),
        ("head_dist.weight", "head_dist.weight"),
        ("head.0.running_mean", "head.0.running_mean"),
        ("patch_embed.norm.weight", "patch_embed.norm.weight"),
        ("blocks.0.attn.rel_pos_embed.weight", "blocks.0.attn.rel_pos_embed.weight"),
    ],
)
def test_a_tensor_that_would_be_dropped_is_an_error_that_names_it(
    extra: str, named: str, tmp_path: Path
) -> None:
    own = weights(layout("plain")) | {extra: torch.ones(64)}
    assert f"'{named}'" in refusal(saved(tmp_path, own))


def test_a_final_norm_beside_the_pools_own_is_refused(tmp_path: Path) -> None:
    own = weights(layout("MAE, fine-tuned")) | {"norm.weight": torch.ones(64)}
    assert "'norm.weight' has no place in it" in refusal(saved(tmp_path, own))


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        *(pytest.param(w, marks=pytest.mark.slow)
          for w in ("LayerScale", "MAE, fine-tuned", "DeiT-3", "SigLIP")),
    ],
)  # fmt: skip
def test_any_tensor_that_is_lacking_is_an_error(word: str, tmp_path: Path) -> None:
    own = weights(layout(word))
    # the absence of these shows in what goes with them: positions, head.bias, the pool's own norm
    elsewhere = {"cls_token", "head.weight", "attn_pool.latent", "fc_norm.weight"}
    if word == "DeiT-3":
        elsewhere.remove("cls_token")
        del own["cls_token"]  # its positions are those of patches: a layout of its own
    for key in own:
        text = refusal(saved(tmp_path, {k: v for k, v in own.items() if k != key}))
        assert f"'{key}' is missing" in text or key in elsewhere, text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("norm.bias", torch.zeros(3), r"'norm.bias' has shape \(3,\), expected \(64,\)"),
        ("norm.bias", torch.full((64,), torch.nan), "'norm.bias' holds values that are not finite"),
        ("norm.bias", torch.ones(64, dtype=torch.int8), "'norm.bias' holds int8 values"),
        ("patch_embed.proj.weight", torch.ones(64, 3, 4, 4), "patches of 4x4, not 8 pixels"),
        ("pos_embed", torch.ones(1, 24, 64), "24 position rows are those of no square grid"),
    ],
)
def test_values_that_cannot_be_used_are_named(
    key: str, value: Tensor, words: str, tmp_path: Path
) -> None:
    text = refusal(saved(tmp_path, weights(layout("plain")) | {key: value}))
    assert re.search(words, text), text


def test_positions_are_resampled_to_a_size_that_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, weights(layout("larger images, positions of patches")))
    assert load_backbone(PLAIN, checkpoint=path).facts.grid == (7, 7)
    assert load_backbone(PLAIN, checkpoint=path, image_size=32).facts.grid == (4, 4)


def test_a_methods_own_parameters_beside_the_backbone_are_passed_over(tmp_path: Path) -> None:
    model = layout("plain")
    beside = {"score_predictor.0.in_conv.0.weight": torch.ones(3),
              "blocks.0.attn.metric.weight": torch.ones(3)}  # fmt: skip
    same(saved(tmp_path, {"model": weights(model) | beside}), model)


@pytest.mark.parametrize("word", LAYOUTS)
def test_a_bundle_of_any_layout_rebuilds_the_same_model(word: str, tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": weights(layout(word))})
    backbone = load_backbone(PLAIN, checkpoint=path)
    config = CompressionConfig("tome", (Reduction(0, keep_ratio=0.5),))
    model = compress_backbone(backbone, config).eval()
    bundle = Bundle(BackboneRef.of(backbone.facts), config, {}, {})
    images = torch.randn(2, *backbone.facts.image_shape)
    save_bundle(tmp_path / "best", model, bundle, images, formats=())
    path.unlink()  # the bundle is enough
    with torch.no_grad():
        torch.testing.assert_close(load_bundle(tmp_path / "best")(images), model(images))
