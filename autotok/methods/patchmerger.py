"""PatchMerger: K learned queries, each averaging all tokens.

Renggli, Pinto, Houlsby, Mustafa, Puigcerver, Riquelme, "Learning to Merge Tokens in Vision
Transformers", 2022, arXiv 2202.12015; no authors' code; the form of lucidrains/vit-pytorch and
JoakimHaurum/TokenReduction.

Tokens are normalised by a LayerNorm of their own; a softmax over tokens of their products with K
learned queries gives the weights of K averages of the normalised tokens. There is no residual.

Departures: none from the public code; the paper places one module in the middle with K = 8, here
layer and count are the configuration's, and a layer that keeps all tokens leaves them as they are.
"""

from __future__ import annotations

import torch
from torch import nn

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Training
from .clustering import OFFICIAL, TRACK_SIZE
from .learning import Learning, TrainingRecipe
from .official_weights import OfficialWeights
from .primitives import pool
from .registry import register


@register("patchmerger")
class PatchMerger(OfficialWeights, Learning):
    """Pools normalised tokens by their products with learned queries."""

    title = "PatchMerger (2022)"
    kind = Kind.POOL
    placement = Placement.BEFORE
    training_need = Training.REQUIRED
    rounding = "floor"
    official_names = OFFICIAL
    options = (
        Option("scaled", False, "divide products by the square root of the width"),
        TRACK_SIZE,
    )
    recipe = TrainingRecipe(source="TokenReduction: 30 epochs from the trained model, lr 1e-3")

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        width = site.facts.blocks[site.layer].width
        self.scale = width**-0.5 if self.values["scaled"] else 1.0
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(site.num_keep, width))

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return 2 * entering * keep * facts.blocks[layer].width  # products, averages

    @classmethod
    def site_params(cls, site: Site, options: Options) -> int:
        return (site.num_keep + 2) * site.facts.blocks[site.layer].width

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        normed = self.norm(tokens.patches)
        weights = (self.scale * (self.queries @ normed.transpose(1, 2))).softmax(dim=-1)
        averaged = tokens.with_x(torch.cat([tokens.prefix, normed], dim=1))
        return pool(averaged, weights, track_size=bool(self.values["track_size"]))
