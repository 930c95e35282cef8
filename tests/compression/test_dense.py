"""Dense features: exact where nothing goes, else the holder's, filled where dropped."""

import pytest
import torch
from torch import Tensor

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.demo import load_demo_backbone
from autotok.backbones.loading import as_backbone
from autotok.backbones.timm_vit import VisionTransformer
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.errors import ConfigError, UnknownName

KEEP = {1: 0.5}


def any_size() -> Backbone:
    """One of timm that embeds images of any size: 16 patches of 8 pixels in 4 rows."""
    made = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=3, dynamic_img_size=True
    )
    return as_backbone(made.eval())


def pixels(backbone: Backbone, count: int = 2) -> Tensor:
    return torch.randn(count, *backbone.facts.image_shape)


@torch.no_grad()
def test_nothing_removed_gives_the_features_that_timm_gives() -> None:
    model = tiny_vit()
    images = torch.randn(2, 3, 32, 32)
    own = model.forward_features(images)[:, 1:].transpose(1, 2).reshape(2, 48, 4, 4)
    torch.testing.assert_close(autotok.dense(model)(images), own, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", ["topk", "tome", "avit", "evovit"])
def test_nothing_removed_is_the_uncompressed_model_to_the_last_bit(method: str) -> None:
    backbone = tiny_backbone()
    images = pixels(backbone)
    whole = autotok.compress(backbone, method=method, keep={1: 1.0}, untrained=True)
    if method == "avit":  # its output is a mean over depth, whatever goes
        assert autotok.dense(whole)(images).shape == (2, 48, 4, 4)
        return
    assert torch.equal(autotok.dense(whole)(images), autotok.dense(backbone)(images))


@torch.no_grad()
def test_every_merged_patch_gets_the_token_that_it_went_to() -> None:
    backbone = tiny_backbone()
    images = pixels(backbone)
    model = autotok.compress(backbone, method="tome", keep=KEEP)
    found = autotok.dense(model)(images).flatten(2).transpose(1, 2)  # (B, N0, C)
    tokens = model.forward_tokens(images, trace=True)
    assert tokens.source is not None
    rows = backbone.token_features(tokens)[:, 1:]
    for image in range(2):
        for patch in range(16):
            (holder,) = tokens.source[image, :, patch].nonzero().flatten().tolist()
            assert torch.equal(found[image, patch], rows[image, holder])


@torch.no_grad()
def test_dropped_patches_are_zeros_or_what_the_nearest_kept_patch_has() -> None:
    backbone = tiny_backbone()
    images = pixels(backbone, 1)
    model = autotok.compress(backbone, method="topk", keep={1: 0.25})
    zeros = autotok.dense(model, fill="zeros")(images)[0]
    near = autotok.dense(model)(images)[0]
    kept = [(r, c) for r in range(4) for c in range(4) if bool(zeros[:, r, c].any())]
    assert len(kept) == 4
    for row in range(4):
        for column in range(4):
            away = [((r - row) ** 2 + (c - column) ** 2, r, c) for r, c in kept]
            _, r, c = min(away)  # of several the first in raster order
            assert torch.equal(near[:, row, column], zeros[:, r, c])


@torch.no_grad()
def test_the_demo_with_carried_positions_gives_its_own_grid() -> None:
    backbone = load_demo_backbone()
    rows, columns = backbone.facts.grid
    model = autotok.compress(backbone, method="tome", keep={3: 0.6})
    found = autotok.dense(model)(pixels(backbone, 1))
    assert found.shape == (1, backbone.facts.blocks[0].width, rows, columns)
    assert bool(found.isfinite().all())


def test_an_unknown_fill_names_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"fill 'neerest' is unknown; did you mean 'nearest'\?"):
        autotok.dense(tiny_backbone(), fill="neerest")


@torch.no_grad()
@pytest.mark.parametrize("keep", [None, KEEP])
@pytest.mark.parametrize(("height", "width"), [(16, 64), (48, 48)])
def test_images_of_another_grid_are_refused_though_they_give_as_many_patches(
    keep: dict[int, float] | None, height: int, width: int
) -> None:
    model = any_size()
    compressed = model if keep is None else autotok.compress(model, method="topk", keep=keep)
    assert autotok.dense(compressed)(pixels(model)).shape == (2, 48, 4, 4)
    words = rf"images of {height} x {width} pixels give {height // 8} x {width // 8} patches, and"
    other = torch.randn(2, 3, height, width)
    with pytest.raises(ConfigError, match=words):
        autotok.dense(compressed)(other)
    if keep is not None:
        with pytest.raises(ConfigError, match=words):
            compressed(other)
