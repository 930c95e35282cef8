"""timm's BEiT and ViTs with relative positions: their files, and what they are refused for."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from other_vits import BEITS, RELPOS, SHAPE, images, other, other_backbone
from torch import Tensor, nn

from autotok.backbones import timm_family
from autotok.backbones.loading import load_backbone, load_structure, save_backbone
from autotok.backbones.timm_relative import TimmBeit, TimmRelPos
from autotok.backbones.timm_vit import timm
from autotok.errors import CheckpointError, UnsupportedBackbone

from timm.models.beit import Beit  # isort: skip
from timm.models.vision_transformer_relpos import VisionTransformerRelPos  # isort: skip


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the tests' own count as those of timm's module."""
    own = timm_family._module_of
    module_of = lambda name: "beit" if name.startswith("beit_sample_") else own(name)  # noqa: E731
    monkeypatch.setattr(timm_family, "_module_of", module_of)


def sample(word: str) -> str:
    """A name under which timm makes a model of this layout."""
    name = "beit_sample_" + re.sub(r"\W+", "_", word.lower())
    kind, options = (
        (Beit, BEITS[word]) if word in BEITS else (VisionTransformerRelPos, RELPOS[word])
    )

    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        given = {k: v for k, v in kwargs.items() if not k.startswith(("pretrained", "cache_dir"))}
        return kind(**{**SHAPE, **options, **given})

    make.__name__ = name
    if not timm.is_model(name):
        timm.models.register_model(make)
    return name


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "weights.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("word", [*BEITS, *RELPOS])
@torch.no_grad()
def test_what_is_written_is_read_as_the_same_model(word: str, tmp_path: Path) -> None:
    model = other(word)
    found = load_backbone(sample(word), checkpoint=saved(tmp_path, model.state_dict()))
    again = tmp_path / "again.safetensors"
    save_backbone(found, again, name=sample(word))
    for backbone in (found, load_backbone(sample(word), checkpoint=again)):
        torch.testing.assert_close(backbone(images()), model(images()), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_official_beit_files_load_with_the_indices_that_they_carry(tmp_path: Path) -> None:
    model = other("BEiT", num_classes=3)
    official = model.state_dict() | {
        f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17) for i in range(3)
    }
    path = saved(tmp_path, {"module": official})  # type: ignore[dict-item]
    found = load_backbone(sample("BEiT"), checkpoint=path)
    torch.testing.assert_close(found(images()), model(images()), atol=1e-5, rtol=1e-5)


def test_the_tables_tell_the_size_of_images_and_are_resampled_for_another(tmp_path: Path) -> None:
    path = saved(tmp_path, other("BEiT", img_size=48).state_dict())
    assert load_backbone(sample("BEiT"), checkpoint=path).facts.grid == (6, 6)
    smaller = load_backbone(sample("BEiT"), checkpoint=path, image_size=32)
    assert smaller.facts.grid == (4, 4)
    assert smaller(images()).isfinite().all()


def test_a_table_of_no_square_grid_is_refused(tmp_path: Path) -> None:
    tensors = other("BEiT").state_dict()
    tensors["blocks.0.attn.relative_position_bias_table"] = torch.zeros(30, 4)
    with pytest.raises(CheckpointError, match="30 relative positions are those of no square grid"):
        load_backbone(sample("BEiT"), checkpoint=saved(tmp_path, tensors))


def test_models_are_made_by_name_without_weights() -> None:
    facts = load_structure("beitv2_base_patch16_224").facts
    assert (facts.family, facts.carries_positions, facts.pooling) == ("timm_relative", True, "mean")
    assert load_structure("vit_relpos_small_patch16_224").facts.num_prefix == 0
    assert load_structure("vit_srelpos_small_patch16_224").facts.carries_positions


def test_networks_that_make_biases_are_counted_once_for_every_block() -> None:
    # (2 * 4 - 1) ** 2 offsets through a network of 2 x 128 and 128 x 4
    networks, tables, one = (
        [block.fixed_macs for block in other_backbone(f"offsets by {word}").facts.blocks]
        for word in ("a network", "tables", "one network")
    )
    assert networks == [49 * 128 * (2 + 4)] * 3
    assert tables == [0, 0, 0]
    assert one == [49 * 8 * (2 + 4), 0, 0]


def test_models_of_other_classes_are_refused() -> None:
    for adapter, kind in ((TimmBeit, "Beit"), (TimmRelPos, "VisionTransformerRelPos")):
        with pytest.raises(UnsupportedBackbone, match=f"Linear, expected timm's {kind}"):
            adapter(nn.Linear(2, 2), name="mine")
