"""Small compressed models whose learned parts decide, and decisions put in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.methods import stochastic
from autotok.tokens import Tokens


class Said(nn.Module):
    """A predictor that reads its answer (log-odds of keeping) off the first channel."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.stack([x[..., 0], torch.zeros_like(x[..., 0])], dim=-1).log_softmax(dim=-1)


def model(
    name: str, *keep: tuple[int, int | None], options: dict[str, Primitive] | None = None
) -> CompressedViT:
    """A tiny double-precision ViT with (layer, count) reductions and random learned parts."""
    reductions = tuple(Reduction(layer, num_keep=count) for layer, count in keep)
    made = compress_backbone(tiny_backbone(), CompressionConfig(name, reductions, options or {}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.reducers.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / max(1, parameter.shape[-1]) ** 0.5)
    return made.double().eval()


def photos(made: CompressedViT, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, *made.backbone.facts.image_shape, generator=generator).double()


@contextlib.contextmanager
def decided(*masks: Tensor) -> Iterator[None]:
    """Random decisions replaced by masks (B, n), one a stage; gradients as ever."""
    left = iter(masks)

    def decide(log_probs: Tensor) -> Tensor:
        mask = next(left).to(log_probs.dtype)
        soft = log_probs.exp()
        return torch.stack([mask, 1.0 - mask], dim=-1) + soft - soft.detach()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stochastic, "hard_gumbel", decide)
        yield


def held(tokens: Tokens, num_patches: int) -> Tensor:
    """(B, N0) mask of the patches that are left."""
    assert tokens.source is not None
    assert tokens.source.shape[2] == num_patches
    return tokens.source.any(dim=1)


def kept_by_stage(made: CompressedViT, images: Tensor) -> list[Tensor]:
    """(B, N0) mask of what each reduction layer keeps, at inference."""
    layers = [int(layer) for layer in made.reducers]
    watch = TapRequest(after=frozenset(layers))
    with torch.no_grad():
        made.forward_tokens(images, trace=True, watch=watch)
    return [held(watch.tokens[layer], made.backbone.facts.num_patches) for layer in layers]


def some_masks(made: CompressedViT, count: int) -> list[Tensor]:
    """Random (3, N0) masks, one a stage, every one with tokens of both kinds."""
    generator = torch.Generator().manual_seed(7)
    patches = made.backbone.facts.num_patches
    masks = torch.rand(count, 3, patches, generator=generator).gt(0.4).double()
    masks[..., 0], masks[..., -1] = 1.0, 0.0
    return list(masks)


def taught(made: CompressedViT, loss: Tensor) -> None:
    """Every parameter of every reducer gets a gradient that is not all zero."""
    loss.backward()
    for name, parameter in made.reducers.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
