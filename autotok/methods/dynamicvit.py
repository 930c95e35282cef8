"""DynamicViT: learned predictors drop tokens stage by stage.

Rao, Zhao, Liu, Lu, Zhou, Hsieh, "DynamicViT: Efficient Vision Transformers with Dynamic Token
Sparsification", NeurIPS 2021, arXiv 2106.02034; code raoyongming/DynamicViT.

In front of a stage, a small MLP reads each token and the mean of the live ones and gives the
log-probability of keeping it. At inference the K best stay, by falling score. In training a hard
Gumbel sample decides; nothing is removed, but dropped tokens are seen by nobody but themselves
(policy softmax), and stay dropped. The share kept is pulled to the stage's ratio on each image.

Departures: all prefix tokens are protected; the ratio trained for is the count that inference
keeps over the initial tokens, int(rho N) / N instead of rho; where the read-out looks at patches an
image always keeps one, and the mean over no live tokens is 0 (the authors' code gives NaN);
the token term compares with one loss for all backbones (theirs takes a KL divergence over channels
on LV-ViT); any grid, where theirs fixes 14 x 14.
"""

from __future__ import annotations

import dataclasses

from autotok.tokens import Taps, Tokens

from .base import Kind
from .learning import TrainingRecipe
from .predictors import PredictedKeep
from .primitives import select
from .registry import register


@register("dynamicvit")
class DynamicViT(PredictedKeep):
    """Keeps the tokens that a learned predictor finds worth keeping."""

    title = "DynamicViT (NeurIPS 2021)"
    kind = Kind.PRUNE
    recipe = TrainingRecipe(
        backbone_lr=0.01,
        frozen_share=5 / 30,
        losses={"ce": 1.0, "soft": 0.5, "tokens": 0.5},
        source="30 epochs, predictors at 1e-3, backbone at a hundredth of it after 5 frozen epochs",
    )

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        if self.training:
            return dataclasses.replace(tokens, mask=self.decide(tokens))
        scores = self.predictor(tokens.patches)[..., 0]  # (B, n)
        return select(tokens, scores.topk(num_keep, dim=1).indices)
