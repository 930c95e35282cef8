"""Position tables of several image sizes in one model: added, run, read and written."""

from pathlib import Path

import pytest
import torch
from test_lvvit import small
from torch import Tensor

from autotok.backbones.base import SIZE_TABLES, Backbone
from autotok.backbones.loading import load_backbone, load_structure, save_backbone
from autotok.backbones.pruning import pruned
from autotok.backbones.size_tables import add_size_tables, by_size, listed_sides
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost
from autotok.errors import CheckpointError, ConfigError, UnsupportedBackbone
from autotok.pruned_spec import PrunedSpec
from autotok.training.student import student_of

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def sized(*sides: int, seed: int = 0) -> TimmViT:
    """The tiny ViT with tables of its own, unlike its own resampled, for these sides."""
    backbone, generator = tiny_backbone(), torch.Generator().manual_seed(seed)
    add_size_tables(backbone, sides)
    for side in sides:
        backbone.model.get_parameter(f"{SIZE_TABLES}.{side}").data.normal_(generator=generator)
    return backbone


def official(sides: tuple[int, ...], *, patch: int = 8) -> dict[str, Tensor]:
    """The tiny ViT's weights with tables as SuperViT's authors list them, the last its own."""
    weights = dict(tiny_backbone().weights.state_dict())
    own = weights.pop("pos_embed")
    for number, side in enumerate(sides):
        table = torch.randn(1, 1 + (side // patch) ** 2, own.shape[2])
        weights[f"pos_embed_list.{number}"] = own if side == 32 else table
    return weights


@torch.no_grad()
def test_new_tables_start_as_the_own_one_resampled() -> None:
    backbone = tiny_backbone()
    add_size_tables(backbone, (16, 24, 32))
    assert listed_sides(backbone.weights.state_dict()) == [16, 24]  # its own size has its own
    assert listed_sides(tiny_backbone().weights.state_dict()) == []
    for side in (16, 24, 32, 40):
        assert torch.equal(backbone.at_size(side)(IMAGES), tiny_backbone().at_size(side)(IMAGES))


@torch.no_grad()
def test_each_size_runs_on_its_own_table_and_the_others_are_resampled() -> None:
    backbone = sized(16, 24)
    for side in (16, 24):
        smaller = backbone.at_size(side)
        table = backbone.model.get_parameter(f"{SIZE_TABLES}.{side}")
        tokens, _ = smaller.embed(IMAGES)
        patches = smaller.patches_of(smaller.fitted(IMAGES))
        torch.testing.assert_close(tokens.patches, patches + table[:, 1:])
        row = (backbone.model.cls_token + table[:, :1]).expand(2, -1, -1)
        torch.testing.assert_close(tokens.x[:, :1], row)
        assert torch.equal(smaller.position_table(), table[0, 1:])
    for side in (8, 32):
        assert torch.equal(backbone.at_size(side)(IMAGES), tiny_backbone().at_size(side)(IMAGES))


@torch.no_grad()
def test_tables_that_are_there_stay_when_others_are_added() -> None:
    backbone = sized(16)
    before = backbone.at_size(16)(IMAGES)
    add_size_tables(backbone, (16, 24))
    assert listed_sides(backbone.weights.state_dict()) == [16, 24]
    assert torch.equal(backbone.at_size(16)(IMAGES), before)


def test_only_the_table_of_the_size_that_ran_learns() -> None:
    backbone = sized(16, 24)
    compress_backbone(backbone, CompressionConfig(image_size=16)).train()(IMAGES).sum().backward()
    tables = {n: p.grad for n, p in backbone.model.named_parameters() if "pos_embed" in n}
    assert [n for n, gradient in tables.items() if gradient is not None] == [f"{SIZE_TABLES}.16"]


def test_tables_are_parameters_that_every_size_is_counted_with() -> None:
    backbone = sized(16, 24)
    held = sum(p.numel() for p in backbone.parameters())
    assert held == tiny_backbone().facts.params + (1 + 4 + 1 + 9) * 48
    for side in (None, 16, 24):
        assert cost(backbone.facts, CompressionConfig(image_size=side)).params == held


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "test_vit"])
def test_a_written_file_gives_the_same_model_at_every_size(name: str, tmp_path: Path) -> None:
    backbone: Backbone = sized(16, 24)
    images, sides = IMAGES, (16, 24)
    if name != "tiny":
        images, sides = torch.randn(1, 3, 64, 64), (32, 48)
        backbone = load_structure(name, image_size=64, device="cpu")
        add_size_tables(backbone, sides)
        for side in sides:
            backbone.weights.get_parameter(f"{SIZE_TABLES}.{side}").data.normal_()
    save_backbone(backbone, tmp_path / "sizes.safetensors", name=name)
    again = load_backbone(name, checkpoint=tmp_path / "sizes.safetensors")
    assert listed_sides(again.weights.state_dict()) == list(sides)
    assert again.facts == backbone.facts
    for side in (*sides, None):
        assert torch.equal(again.at_size(side)(images), backbone.at_size(side)(images))


@torch.no_grad()
def test_the_authors_list_of_tables_is_read_the_largest_as_its_own(tmp_path: Path) -> None:
    weights = official((16, 24, 32))
    torch.save({"model": {**weights, "reuse_block.1.fc1.bias": torch.zeros(4)}}, tmp_path / "a.pth")
    backbone = load_backbone("tiny", checkpoint=tmp_path / "a.pth")
    assert isinstance(backbone, TimmViT)
    assert listed_sides(backbone.weights.state_dict()) == [16, 24]
    assert torch.equal(backbone(IMAGES), tiny_backbone()(IMAGES))
    assert torch.equal(backbone.at_size(24).position_table(), weights["pos_embed_list.1"][0, 1:])


def test_a_model_that_is_asked_for_at_a_size_takes_that_table_as_its_own() -> None:
    listed = official((16, 24, 32))
    given = by_size(listed, image_size=24, origin="a.pth", name="tiny")
    assert torch.equal(given["pos_embed"], listed["pos_embed_list.1"])
    assert torch.equal(given[f"{SIZE_TABLES}.32"], listed["pos_embed_list.2"])
    again = by_size(given, image_size=32, origin="a.pth", name="tiny")
    assert torch.equal(again["pos_embed"], listed["pos_embed_list.2"])
    others = {f"{SIZE_TABLES}.16", f"{SIZE_TABLES}.24"}
    assert {name for name in again if "pos" in name} == {"pos_embed", *others}
    plain = tiny_backbone().weights.state_dict()
    assert by_size(plain, origin="a.pth", name="tiny") is plain


@pytest.mark.parametrize(
    ("key", "rows", "words"),
    [
        ("pos_embed_list.1", 12, r"'pos_embed_list\.1' has the position rows of no square grid"),
        ("pos_embed_list.1", 5, r"'pos_embed_list\.1' is a second position table.* 16 pixels"),
        (f"{SIZE_TABLES}.24", 17, r"'pos_embed_by_size\.24' is a second position .* 32 pixels"),
    ],
)
def test_lists_that_cannot_be_are_said(key: str, rows: int, words: str, tmp_path: Path) -> None:
    weights = {**official((16, 24, 32)), key: torch.randn(1, rows, 48)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth' does not fit backbone 'tiny': {words}"):
        load_backbone("tiny", checkpoint=tmp_path / "a.pth")


def test_tables_of_another_width_are_refused(tmp_path: Path) -> None:
    weights = {**tiny_backbone().weights.state_dict(), f"{SIZE_TABLES}.16": torch.randn(1, 5, 40)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"size\.16' has shape \(1, 5, 40\), expected .*48"):
        load_backbone("tiny", checkpoint=tmp_path / "a.pth")


def test_backbones_that_cannot_hold_tables_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedBackbone, match=r"\(family lvvit\) cannot hold position tables"):
        add_size_tables(small(), (16,))
    with pytest.raises(ConfigError, match=r"image_size 20 .* multiples of 8 pixels"):
        add_size_tables(tiny_backbone(), (20,))


@torch.no_grad()
def test_copies_pruned_ones_and_students_have_the_tables_too() -> None:
    backbone, at = sized(16), CompressionConfig("topk", (Reduction(1, num_keep=2),), image_size=16)
    expected = compress_backbone(backbone, at)(IMAGES)
    assert torch.equal(student_of(backbone, at)(IMAGES), expected)
    spec = PrunedSpec((0, 2, 3), ((0, 1), (2,), (0, 2)), ("f" * 8 + "0" * 40,) * 3)
    cut = pruned(backbone, spec)
    assert listed_sides(cut.weights.state_dict()) == [16]
    assert cut.at_size(16)(IMAGES).shape == (2, 10)
