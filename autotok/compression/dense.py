"""`DenseViT`: features of every patch of the image, although fewer tokens ran."""

from __future__ import annotations

from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.backbones.full_length import FILLS, at_full_length
from autotok.names import known
from autotok.tokens import Tokens

from .model import CompressedViT


class DenseViT(nn.Module):
    """Images in, features on the original grid out, for heads that segment, estimate depth or read.

    Features are the tokens as the model's last norm leaves them. A patch that was merged gets those
    of the token that it went to; one that was dropped those of the nearest patch that still has a
    token, or zeros. Where nothing was removed they are the uncompressed model's, to the last bit.
    """

    def __init__(self, model: CompressedViT, *, fill: str = "nearest") -> None:
        """`fill` is what a dropped patch gets: 'nearest' or 'zeros'; see `at_full_length`."""
        super().__init__()
        self.model: CompressedViT = model
        self.fill = known("fill", fill, FILLS)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, rows, columns) of images (B, channels, height, width).

        Raises:
            ConfigError: images of another grid than the model's.
        """
        facts = self.model.backbone.facts
        images = self.model.backbone.fitted(images)
        self.model.check_grid(images)  # without reducers too: features are put on the grid
        tokens = self.model.forward_tokens(images, trace=True)
        rows = dense_rows(self.model.backbone, tokens, fill=self.fill)
        found: Tensor = rows[:, facts.num_prefix :].transpose(1, 2).unflatten(2, facts.grid)
        return found


def dense_rows(backbone: Backbone, tokens: Tokens, *, fill: str = "nearest") -> Tensor:
    """(B, P + N0, C) of traced tokens that left the last block: the features of the prefix tokens,
    then of every patch in raster order."""
    return at_full_length(backbone.token_features(tokens), tokens, fill=fill)
