"""timm's EVA family: what is known of its models, and files under the names of their authors."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from other_vits import EVAS, SHAPE, images, other, other_backbone
from safetensors.torch import save_file
from torch import Tensor, nn

from autotok.backbones import timm_family
from autotok.backbones.loading import load_backbone, load_structure, save_backbone
from autotok.backbones.timm_eva import TimmEva
from autotok.backbones.timm_vit import timm
from autotok.counting.macs import uncompressed
from autotok.errors import CheckpointError, UnsupportedBackbone

from timm.models.eva import Eva  # isort: skip

Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the tests' own count as those of timm's module."""
    own = timm_family._module_of
    module_of = lambda name: "eva" if name.startswith("eva_sample_") else own(name)  # noqa: E731
    monkeypatch.setattr(timm_family, "_module_of", module_of)


def sample(word: str) -> str:
    """A name under which timm makes a model of this layout."""
    name = "eva_sample_" + re.sub(r"\W+", "_", word.lower())

    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        given = {k: v for k, v in kwargs.items() if not k.startswith(("pretrained", "cache_dir"))}
        return Eva(**{**SHAPE, **EVAS[word], **given})

    make.__name__ = name
    if not timm.is_model(name):
        timm.models.register_model(make)
    return name


def weights(model: nn.Module) -> Weights:
    return {key: value.clone().contiguous() for key, value in model.state_dict().items()}


@torch.no_grad()
def same(path: Path, model: Any, word: str) -> TimmEva:
    found = load_backbone(sample(word), checkpoint=path)
    assert isinstance(found, TimmEva)
    torch.testing.assert_close(found(images()), model(images()), atol=1e-5, rtol=1e-5)
    return found


def saved(folder: Path, tensors: Weights) -> Path:
    path = folder / "weights.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("word", EVAS)
def test_what_is_written_is_read_as_the_same_model(word: str, tmp_path: Path) -> None:
    model = other(word)
    found = same(saved(tmp_path, weights(model)), model, word)
    again = tmp_path / "again.safetensors"
    save_backbone(found, again, name=sample(word))
    assert same(again, model, word).facts == found.facts


def test_dinov3_files_under_their_own_names_load(tmp_path: Path) -> None:
    model = other("DINOv3, biases")
    official = {}
    for key, value in weights(model).items():
        official[
            re.sub(r"gamma_(\d)", r"ls\1.gamma", key).replace("reg_token", "storage_tokens")
        ] = value
    for index in range(3):
        q, v = (official.pop(f"blocks.{index}.attn.{part}_bias") for part in "qv")
        official[f"blocks.{index}.attn.qkv.bias"] = torch.cat([q, torch.randn(32), v])
        official[f"blocks.{index}.attn.qkv.bias_mask"] = torch.ones(96)
    official["mask_token"] = torch.randn(1, 32)
    official["rope_embed.periods"] = torch.randn(2)
    same(saved(tmp_path, official), model, "DINOv3, biases")


def test_eva_02_files_under_their_own_names_load(tmp_path: Path) -> None:
    model = other("EVA-02 CLIP")
    words = {
        "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3",
        "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln",
        "q_proj.bias": "q_bias", "v_proj.bias": "v_bias",
    }  # fmt: skip
    official = {"rope.freqs_cos": torch.randn(16, 8), "rope.freqs_sin": torch.randn(16, 8)}
    for key, value in weights(model).items():
        for ours, theirs in words.items():
            key = key.replace(ours, theirs)
        official[f"visual.{key}"] = value
    official["logit_scale"] = torch.ones(())
    same(saved(tmp_path, official), model, "EVA-02 CLIP")


def test_perception_encoder_files_under_their_own_names_load(tmp_path: Path) -> None:
    model: Any = other("Perception Encoder")
    nn.init.zeros_(model.head.bias)
    own = weights(model)
    official = {
        "visual.class_embedding": own.pop("cls_token")[0, 0],
        "visual.positional_embedding": own.pop("pos_embed")[0],
        "visual.proj": own.pop("head.weight").T.contiguous(),
        "text.positional_embedding": torch.randn(4, 3),
    }
    own.pop("head.bias")
    parts = ("weight", "bias")
    for part in parts:
        joint = torch.cat([own.pop(f"attn_pool.q.{part}"), own.pop(f"attn_pool.kv.{part}")])
        official[f"visual.attn_pool.attn.in_proj_{part}"] = joint
    words = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "attn_pool.latent": "attn_pool.probe",
        "attn_pool.norm": "attn_pool.layernorm", "attn_pool.mlp.fc1": "attn_pool.mlp.c_fc",
        "attn_pool.mlp.fc2": "attn_pool.mlp.c_proj", "attn_pool.proj": "attn_pool.attn.out_proj",
        "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj", "norm1": "ln_1", "norm2": "ln_2",
    }  # fmt: skip
    for key, value in own.items():
        theirs = re.sub(r"^norm\.", "ln_post.", key)
        for ours, word in words.items():
            theirs = theirs.replace(ours, word)
        official["visual." + theirs.replace("blocks.", "transformer.resblocks.")] = value
    same(saved(tmp_path, official), model, "Perception Encoder")


def test_the_file_decides_classes_and_the_size_of_images_and_another_may_be_asked_for(
    tmp_path: Path,
) -> None:
    model = other("EVA-02", num_classes=3, img_size=48)
    path = saved(tmp_path, weights(model))
    found = load_backbone(sample("EVA-02"), checkpoint=path)
    assert (found.facts.num_classes, found.facts.grid) == (3, (6, 6))
    assert load_backbone(sample("EVA-02"), checkpoint=path, image_size=32).facts.grid == (4, 4)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    tensors = weights(other("EVA-02"))
    path = tmp_path / "weights.safetensors"
    save_file(tensors | {"blocks.0.attn.relative": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"'blocks.0.attn.relative' has no place in it"):
        load_backbone(sample("EVA-02"), checkpoint=path)


def test_the_kind_of_every_model_is_known() -> None:
    facts = {word: other_backbone(word).facts for word in EVAS}
    assert facts["DINOv3"].num_prefix == 5
    assert facts["DINOv3"].carries_positions
    assert not facts["DINOv3"].has_position_table
    assert not facts["EVA"].carries_positions
    assert facts["registers alone"].has_cls is False
    assert facts["Perception Encoder"].pooling == "map"
    assert facts["EVA-02"].blocks[0].mlp_matrices == 3


@pytest.mark.parametrize(
    ("name", "gflops"),
    [("vit_small_patch16_dinov3", 6.26), ("eva02_tiny_patch14_224", 1.70)],
)
def test_models_are_made_by_name_without_weights(name: str, gflops: float) -> None:
    found = load_structure(name)
    assert found.facts.family == "timm_eva"
    assert uncompressed(found.facts).macs_g == pytest.approx(gflops, abs=0.2)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_large_patch16_sapiens2", "keys are shared by several heads"),
    ],
)
def test_those_that_cannot_be_run_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedBackbone, match=f"'{name}' .*{reason}") as caught:
        load_structure(name)
    assert "\n" not in str(caught.value)
