"""A tiny ViT with random weights, for tests and examples: 16 patches, 4 blocks, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .checkpoint import read_state_dict
from .family import Family, ModelRequest, register_family
from .fitting import checked_fit, load_fitting
from .size_tables import add_size_tables, by_size, listed_sides
from .timm_vit import TimmViT, VisionTransformer


def tiny_vit(
    num_blocks: int = 4,
    *,
    image_size: int = 32,
    patch_size: int = 8,
    width: int = 48,
    heads: int = 3,
    num_classes: int = 10,
    seed: int = 0,
) -> VisionTransformer:
    """A plain timm `VisionTransformer` in evaluation mode; the same weights for the same seed."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)
    model = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=num_blocks,
        num_heads=heads,
        num_classes=num_classes,
    )
    torch.nn.init.normal_(model.head.weight, std=0.5)
    torch.random.set_rng_state(state)
    return model.eval()


def tiny_backbone(num_blocks: int = 4, *, seed: int = 0) -> TimmViT:
    """`tiny_vit` wrapped, ready to compress."""
    return TimmViT(tiny_vit(num_blocks, seed=seed), name="tiny")


@register_family("tiny")
class TinyFamily(Family):
    """`tiny` by name: random weights without a checkpoint, which is what it is for."""

    def names(self) -> Sequence[str]:
        return ("tiny",)

    def matches(self, asked: str | nn.Module) -> bool:
        return asked == "tiny"

    def load(self, asked: ModelRequest) -> TimmViT:
        backbone = tiny_backbone()
        if asked.checkpoint is not None:
            given, origin = read_state_dict(asked.checkpoint), str(asked.checkpoint)
            tensors = by_size(given, origin=origin, name="tiny")
            add_size_tables(backbone, listed_sides(tensors))
            own = backbone.weights.state_dict()
            load_fitting(backbone.weights, checked_fit(own, tensors, origin=origin, name="tiny"))
        return backbone

    def structure(self, asked: ModelRequest, *, device: str = "meta") -> TimmViT:
        return tiny_backbone().to(device)  # cheaper than it would be to make it without weights
