"""PaPr: a small convolutional network says where to look, once, before the ViT runs.

Mahmud, Yaman, Liu, Marculescu, "PaPr: Training-Free One-Step Patch Pruning with Lightweight
ConvNets for Faster Inference", ECCV 2024, arXiv 2403.16020; code tanvir-utexas/PaPr.

The network's last feature map, averaged over channels, is enlarged to the patch grid (bicubic,
corners aligned); patches where it is highest stay, by falling score.

Departures: all prefix tokens are kept, and a keep ratio is of the patches alone, where the authors
count the class token too, which is one patch more at some ratios (0.9 of 196: 176, theirs 177); the
image is normalised as the ViT wants it, for both; the network looks before the ViT embeds, so that
memory peaks without its tokens; the read-out is the backbone's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.errors import ConfigError
from autotok.tokens import Needs, Taps, Tokens

from .base import Kind, Option, Placement
from .image_scoring import ImageScoring
from .primitives import select
from .registry import register

PROXIES = (
    *(f"mobileone_s{size}" for size in range(5)),
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
)


@register("papr")
class PaPr(ImageScoring):
    """Keeps the patches that a small network finds most active."""

    title = "PaPr (ECCV 2024)"
    kind = Kind.PRUNE
    placement = Placement.BEFORE_BLOCKS
    rounding = "floor"
    single_layer = True
    options = (
        Option("proxy", "mobileone_s0", "the network, by its name in timm", choices=PROXIES),
    )
    needs = Needs.IMAGE
    requires = frozenset({"visible"})

    @classmethod
    def auxiliary(cls, options: Options) -> str:
        return str(options["proxy"])

    def look(self, images: Tensor) -> Tensor:
        return self.scores(images)

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        scores = (
            self.scores(taps.image) if taps.image_scores is None else taps.image_scores
        )  # (B, N0)
        return select(tokens, scores.topk(num_keep, dim=1).indices)

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """(B, N0): how active the network is at each patch."""
        if self.network is None:
            raise ConfigError(
                f"method '{self.name}' needs its proxy network, and none was loaded; compress with"
                " autotok.compress, or set `network` on its reducer"
            )
        activity = self.network(images).mean(dim=1, keepdim=True)  # (B, 1, h, w)
        grid = self.site.facts.grid
        # in float32 at least: bicubic interpolation knows no half precision on every device
        wide = activity.to(torch.promote_types(activity.dtype, torch.float32))
        return F.interpolate(wide, size=grid, mode="bicubic", align_corners=True).flatten(1)
