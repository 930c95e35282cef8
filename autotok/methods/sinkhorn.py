"""Sinkhorn tokenizer: share tokens out among learned centres by optimal transport.

Haurum, Madadi, Escalera, Moeslund, "Multi-scale hybrid vision transformer and Sinkhorn tokenizer
for sewer defect classification", Automation in Construction 2022; code JoakimHaurum/MSHViT, as in
JoakimHaurum/TokenReduction.

Cosines between K learned centres and the tokens become a transport plan by a few log-domain
Sinkhorn rounds: every token gives exactly one unit, every centre receives about n / K. Outputs are
the plan's sums of unit-length tokens, so the tokens' norms are lost.

Departures: centres are normalised in the forward without overwriting the parameter, which gives the
same outputs; a layer that keeps all tokens leaves them as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Training
from .clustering import OFFICIAL, TRACK_SIZE
from .learning import Learning, TrainingRecipe
from .official_weights import OfficialWeights
from .primitives import directions, pool
from .registry import register


@register("sinkhorn")
class Sinkhorn(OfficialWeights, Learning):
    """Pools unit-length tokens by a transport plan towards learned centres."""

    title = "Sinkhorn tokenizer (Automation in Construction 2022)"
    kind = Kind.POOL
    placement = Placement.BEFORE
    training_need = Training.REQUIRED
    rounding = "floor"
    official_names = OFFICIAL
    options = (
        Option("epsilon", 1.0, "how soft the plan is", low=0.01, high=10.0, log=True, search=True),
        Option("iterations", 3, "Sinkhorn rounds", low=1, high=20),
        TRACK_SIZE,
    )
    recipe = TrainingRecipe(source="TokenReduction: 30 epochs from the trained model, lr 1e-3")

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.v = nn.Parameter(torch.randn(site.num_keep, site.facts.blocks[site.layer].width))

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return 2 * entering * keep * facts.blocks[layer].width  # scores, sums

    @classmethod
    def site_params(cls, site: Site, options: Options) -> int:
        return site.num_keep * site.facts.blocks[site.layer].width

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        unit = directions(tokens.patches)
        scores = directions(self.v) @ unit.transpose(1, 2)  # (B, k, n)
        plan = transport_plan(scores, float(self.values["epsilon"]), int(self.values["iterations"]))
        units = tokens.with_x(torch.cat([tokens.prefix, unit], dim=1))
        return pool(units, plan.to(unit.dtype), track_size=bool(self.values["track_size"]))


def transport_plan(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(B, K, n) plan of scores (B, K, n): columns add up to 1, rows to about n / K; float32."""
    logits = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    marginal = -math.log(scores.shape[1] + scores.shape[2])
    columns = torch.zeros_like(logits[:, :1])  # (B, 1, n)
    for _ in range(iterations):
        rows = marginal - (logits + columns).logsumexp(dim=2, keepdim=True)
        columns = marginal - (logits + rows).logsumexp(dim=1, keepdim=True)
    return (logits + rows + columns - marginal).exp()
