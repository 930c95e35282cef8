"""Random pruning, the control every method has to beat.

Keeps a random subset of the tokens that enter, in raster order. The subset is drawn once from the
option `seed` and the layer, the same for every image: results are deterministic, do not depend on
batch neighbours, and export as a constant gather. No paper; departures: none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autotok.config import Options
from autotok.tokens import Taps, Tokens

from .base import Kind, Option, Site, TokenReducer
from .primitives import select
from .registry import register


@register("random")
class RandomPruning(TokenReducer):
    """Keeps positions drawn from a seed."""

    title = "Random pruning (control)"
    kind = Kind.PRUNE
    options = (Option("seed", 0, "seed of the random positions", low=0, high=2**31 - 1),)
    kept: Tensor

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        generator = np.random.default_rng([int(self.values["seed"]), site.layer])
        ranking = generator.permutation(site.num_entering)
        kept = torch.from_numpy(np.sort(ranking[: site.num_keep]))
        self.register_buffer("kept", kept, persistent=False)  # (k,)

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return select(tokens, self.kept.expand(tokens.x.shape[0], -1))
