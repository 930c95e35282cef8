"""PPT: prune where tokens differ in worth, pool where they do not.

Wu, Zeng, Wang, Chen, "PPT: Token Pruning and Pooling for Efficient Vision Transformers", arXiv
2310.01812; code xjwu1024/PPT.

Between attention and MLP, a patch is worth the attention the class token pays it times the length
of its value vector. If the worths of an image vary much, its least worthy tokens are dropped; if
they vary little, its most similar tokens merge (ToMe's matching). Both remove the same number.

Departures: both arms go through one merge, in which a dropped token weighs nothing, so that nothing
depends on the batch and the model exports; `threshold` is stated for the square of the image's
initial patch count times the variance, which does not depend on resolution (the authors' 7e-5 at
196 patches is 2.69); all prefix tokens are protected; where the class
token is unsupervised or missing, attention column means stand in (option `score`). As in the
authors' code, sizes start anew at every reduction if attention is not proportional.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from autotok.tokens import Needs, Taps, Tokens

from .base import Kind, Option, Training
from .learning import Learning, TrainingRecipe
from .matching import Matching, bipartite
from .merging import merge
from .registry import register
from .scoring import SCORE, Scoring, attention_scores


@register("ppt")
class PPT(Scoring, Matching, Learning):
    """Drops or merges, whichever suits the image."""

    title = "PPT (arXiv 2310.01812)"
    kind = Kind.HYBRID
    halves_r = True
    training_need = Training.OPTIONAL
    options = (
        Option(
            "threshold",
            2.69,
            "merge where the squared patch count times the variance of the scores is below",
            low=0.0,
            high=1000.0,
            search=True,
        ),
        SCORE,
        Option(
            "proportional",
            True,
            "add log size to the attention logits of merged tokens",
            model_wide=True,
        ),
    )
    needs = Needs.CLS_ATTENTION | Needs.KEYS | Needs.VALUES
    recipe = TrainingRecipe(source="xjwu1024/PPT: 30 epochs of the DeiT recipe, weight decay 0.05")

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        prefix, removed = tokens.num_prefix, tokens.num_patches - num_keep
        if not self.proportional_attention:
            tokens = dataclasses.replace(tokens, size=None)
        scores = self._scores(taps, prefix)  # (B, n)
        order = scores.argsort(dim=-1, descending=True)
        match = bipartite(taps.mean_keys[:, prefix:], removed, num_prefix=prefix)
        pooled = self._pools(scores, tokens.grid).unsqueeze(1)  # (B, 1)
        keep = torch.where(pooled, match.keep, order[:, :num_keep])
        gone = torch.where(pooled, match.gone, order[:, num_keep:])
        target = torch.where(pooled, match.target, 0)
        dropped = torch.zeros_like(scores, dtype=torch.bool).scatter(1, gone, True) & ~pooled
        return merge(_emptied(tokens, dropped), keep=keep, gone=gone, target=target)

    @torch.no_grad()
    def _scores(self, taps: Taps, prefix: int) -> Tensor:
        lengths = taps.values[:, :, prefix:].square().sum(dim=(1, 3)).sqrt()  # (B, n), all heads
        worth = attention_scores(taps, self.needs, prefix) * lengths
        return worth / worth.sum(dim=-1, keepdim=True)

    def _pools(self, scores: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B,) bool, the images whose tokens are worth about the same."""
        patches = grid[0] * grid[1]
        if scores.shape[1] < 2:
            return torch.ones_like(scores[:, 0], dtype=torch.bool)
        return scores.var(dim=-1) * patches**2 < float(self.values["threshold"])


def _emptied(tokens: Tokens, dropped: Tensor) -> Tokens:
    """The same tokens; those `dropped` (B, n) weigh nothing and hold no patch."""
    size = tokens.sizes().masked_fill(dropped, 0.0)
    source = tokens.source
    if source is not None:
        source = source & ~dropped.unsqueeze(-1)
    return dataclasses.replace(tokens, size=size, source=source)
