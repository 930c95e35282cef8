"""Small models with exits whose heads say something."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.exits import ExitPolicy
from autotok.export.best_yaml import BackboneRef, Bundle, write_best
from autotok.export.weights import WEIGHTS, write_weights

LGVIT = ("local-dw", "local", "global-2", "global-3")
LAYERS = (1, 2, 3, 4)


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def early_model(
    policy: ExitPolicy,
    method: str = "none",
    reductions: tuple[Reduction, ...] = (),
    *,
    backbone: Backbone | None = None,
) -> CompressedViT:
    """Six blocks; the heads' parameters are random and of some size, in evaluation."""
    config = CompressionConfig(method, reductions, exits=policy)
    made = compress_backbone(backbone or tiny_backbone(6), config).eval()
    assert made.exits is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.exits.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def median_policy(kinds: tuple[str, ...], layers: tuple[int, ...] = LAYERS) -> ExitPolicy:
    """Under which some images stop at the first exits and some do not."""
    return ExitPolicy(layers, kinds, threshold=(0.6,))


def trained_checkpoint(folder: Path) -> Path:
    """The weight file of `tiny` with two heads beside it, as a fine-tune leaves them."""
    home, backbone = folder / "best", load_backbone("tiny")
    home.mkdir()
    model = early_model(ExitPolicy((0, 2), ("linear", "local-dw")), backbone=backbone)
    write_weights(home, model, "tiny")
    ref = BackboneRef.of(backbone.facts, name="tiny")
    write_best(home / "config.yaml", Bundle(ref, model.config, {}))
    return home / WEIGHTS
