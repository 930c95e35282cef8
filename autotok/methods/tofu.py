"""ToFu: prune early, merge late, and keep the norm.

Kim, Gao, Hsu, Shen, Jin, "Token Fusion: Bridging the Gap between Token Pruning and Token Merging",
WACV 2024, arXiv 2312.01026. No official code was found.

Tokens are matched as in ToMe. Early blocks react to averages badly, so there the matched tokens
are simply dropped; later ones merge by MLERP: the mean of the group, scaled to the group's largest
norm.

Departures: blocks up to L // 2 prune, as in the only public implementation (within
hchautran/PiToMe); that implementation divides by the old partner's norm instead of the mean's,
which `norm_rule: third_party` reproduces. As there, sizes are not tracked. All prefix tokens are
protected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Primitive
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, TokenReducer, Training
from .matching import Match, bipartite
from .primitives import merge, select
from .registry import register

__all__ = ["ToFu"]


@register("tofu")
class ToFu(TokenReducer):
    """Drops or norm-preservingly merges the most similar pairs of a bipartite split."""

    title = "ToFu (WACV 2024)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    options = (
        Option(
            "mode",
            "auto",
            "what becomes of matched tokens; auto prunes up to the middle block, then mlerp",
            choices=("auto", "prune", "avg", "mlerp"),
            search=True,
        ),
        Option(
            "norm_rule",
            "paper",
            "what mlerp divides by: the mean's norm, or the old partner's",
            choices=("paper", "third_party"),
        ),
    )
    needs = Needs.KEYS

    @classmethod
    def feasible(cls, entering: int, options: Mapping[str, Primitive]) -> tuple[int, int]:
        return entering - entering // 2, entering

    @classmethod
    def overhead_macs(
        cls,
        facts: BackboneFacts,
        layer: int,
        entering: Counts,
        keep: Counts,
        options: Mapping[str, Primitive],
    ) -> Counts:
        half = entering // 2
        return half * (entering - half) * facts.blocks[layer].head_dim  # similarities

    @property
    def mode(self) -> str:
        """What happens in this layer: 'prune', 'avg' or 'mlerp'."""
        if self.values["mode"] != "auto":
            return str(self.values["mode"])
        return "prune" if self.site.layer <= self.site.facts.num_blocks // 2 else "mlerp"

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        prefix, removed = tokens.num_prefix, tokens.num_patches - num_keep
        metric = taps.mean_keys[:, prefix:]  # (B, n, D)
        match = bipartite(metric, removed, num_prefix=prefix)
        if self.mode == "prune":
            return select(tokens, match.keep)
        means = merge(
            tokens,
            keep=match.keep,
            gone=match.gone,
            target=match.target,
            weights=tokens.x.new_ones(tokens.x.shape[0], tokens.num_patches),
            track_size=False,
        )
        if self.mode == "avg":
            return means
        norms = tokens.patches.norm(dim=-1)  # (B, n)
        base = means.patches.norm(dim=-1)  # (B, k)
        if self.values["norm_rule"] == "third_party":
            base = norms.gather(1, match.keep)
        scale = _largest(norms, match) / base.clamp_min(1e-12)
        scale = F.pad(scale, (prefix, 0), value=1.0).unsqueeze(-1)  # (B, P + k, 1)
        return dataclasses.replace(means, x=means.x * scale)


def _largest(norms: Tensor, match: Match) -> Tensor:
    """(B, k): the largest norm within each survivor's group.

    A masked maximum instead of `scatter_reduce`, which ONNX runtimes refuse.
    """
    own = norms.gather(1, match.keep)
    places = torch.arange(own.shape[1], device=own.device)
    mine = match.target.unsqueeze(-1) == places  # (B, r, k)
    theirs = torch.where(mine, norms.gather(1, match.gone).unsqueeze(-1), 0.0).amax(dim=1)
    return torch.maximum(own, theirs)
