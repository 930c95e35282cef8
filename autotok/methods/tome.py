"""ToMe: merge similar tokens.

Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman, "Token Merging: Your ViT But Faster", ICLR 2023,
arXiv 2210.09461; code facebookresearch/ToMe.

Between attention and MLP, tokens are split alternately into two sets, each token of the first
finds its most similar one in the second by the cosine of their mean keys, and the closest pairs
merge into their size-weighted mean. Later attention adds the log of a token's size to its logits
("proportional").

Departures: all prefix tokens are protected; asking for more than half is an error, where the
authors' code silently clamps.
"""

from __future__ import annotations

from typing import ClassVar

from autotok.tokens import Needs, Taps, Tokens

from .base import Kind, Option, Training
from .matching import Matching, bipartite, key_direction
from .merging import merge_pairs
from .registry import register


@register("tome")
class ToMe(Matching):
    """Merges the most similar pairs of a bipartite split."""

    title = "ToMe (ICLR 2023)"
    kind = Kind.MERGE
    halves_r = True
    training_need = Training.OPTIONAL
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "proportional",
            True,
            "add log size to the attention logits of merged tokens",
            model_wide=True,
        ),
    )
    conserves_size = True
    needs = Needs.KEYS

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        prefix, removed = tokens.num_prefix, tokens.num_patches - num_keep
        metric = key_direction(taps, prefix)  # (B, n, D)
        return merge_pairs(tokens, bipartite(metric, removed, num_prefix=prefix))
