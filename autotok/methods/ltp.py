"""LTP-ViT: prune once, before the first block.

"LTP-ViT: Lightweight Token Pre-Pruning for Low-Latency Vision Transformer Inference"; no public
code, written from the paper's equations.

A patch is redundant if another one looks like it (largest cosine between patch embeddings), and its
place is important if its position embedding is long. Patches with the lowest alpha * importance -
(1 - alpha) * redundancy, both scaled to [0, 1] within the image, are dropped before block 0.

Departures: the class token is not scored (the paper indexes it, but it has no patch embedding);
where all importances or all redundancies are equal that term is 0 instead of 0/0. Survivors stay
in raster order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Placement, TokenReducer
from .primitives import diagonal, select
from .registry import register

EPSILON = 1e-6


@register("ltp")
class LTP(TokenReducer):
    """Keeps patches that look unlike any other and stand in important places."""

    title = "LTP-ViT"
    kind = Kind.PRUNE
    placement = Placement.BEFORE_BLOCKS
    options = (
        Option(
            "alpha",
            0.5,
            "weight of the place against the look of a patch",
            low=0.0,
            high=1.0,
            search=True,
        ),
    )
    requires = frozenset({"position_table"})
    single_layer = True
    needs = Needs.EMBEDDING

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return entering * entering * facts.blocks[layer].width  # similarities

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        scores = self._scores(taps.patch_embedding, taps.position_table)  # (B, n)
        kept = scores.topk(num_keep, dim=1).indices
        return select(tokens, kept.sort(dim=1).values)

    @torch.no_grad()
    def _scores(self, patches: Tensor, table: Tensor) -> Tensor:
        alpha = float(self.values["alpha"])
        unit = F.normalize(patches, dim=-1, eps=EPSILON)
        similarity = unit @ unit.transpose(-2, -1)  # (B, n, n)
        itself = diagonal(patches.shape[1], patches.device)
        redundancy = similarity.masked_fill(itself, -2.0).amax(dim=-1)
        importance = table.norm(dim=-1).unsqueeze(0)  # (1, n)
        return alpha * _unit_range(importance) - (1.0 - alpha) * _unit_range(redundancy)


def _unit_range(values: Tensor) -> Tensor:
    """Each row scaled to [0, 1]; a constant row becomes 0."""
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    return (values - low) / (high - low).clamp_min(EPSILON)
