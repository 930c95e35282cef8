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

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import Needs, Taps, Tokens

from .base import Kind, Option, Training
from .matching import Matching, Pairs, bipartite, key_direction
from .merging import drop_pairs, merge_pairs
from .primitives import above_zero
from .registry import register


@register("tofu")
class ToFu(Matching):
    """Drops or norm-preservingly merges the most similar pairs of a bipartite split."""

    title = "ToFu (WACV 2024)"
    kind = Kind.HYBRID
    halves_r = True
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

    @property
    def mode(self) -> str:
        """What happens in this layer: 'prune', 'avg' or 'mlerp'."""
        if self.values["mode"] != "auto":
            return str(self.values["mode"])
        return "prune" if self.site.layer <= self.site.facts.num_blocks // 2 else "mlerp"

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        prefix, removed = tokens.num_prefix, tokens.num_patches - num_keep
        metric = key_direction(taps, prefix)  # (B, n, D)
        pairs = bipartite(metric, removed, num_prefix=prefix)
        if self.mode == "prune":
            return drop_pairs(tokens, pairs)
        means = merge_pairs(tokens, pairs, track_size=False)
        if self.mode == "avg":
            return means
        norms = torch.linalg.vector_norm(tokens.patches, dim=-1)  # (B, n)
        own = norms[:, 1 - pairs.first :: 2]  # only odd tokens take others in
        base = own
        if self.values["norm_rule"] == "paper":
            base = torch.linalg.vector_norm(means.x[:, -own.shape[1] :], dim=-1)
        theirs = norms[:, pairs.first :: 2].gather(1, pairs.gone_even)  # (B, r)
        scale = _largest(own, theirs, pairs) / base.clamp_min(above_zero(1e-12, base))  # (B, |odd|)
        same = means.x.shape[1] - own.shape[1]
        scale = F.pad(scale, (same, 0), value=1.0).unsqueeze(-1)  # (B, P + k, 1)
        return means.with_x(means.x * scale)


def _largest(own: Tensor, theirs: Tensor, pairs: Pairs) -> Tensor:
    """(B, |odd|): the largest norm in each group, of odd tokens `own` and those they take in.

    A masked maximum instead of `scatter_reduce`, which ONNX runtimes refuse.
    """
    places = torch.arange(own.shape[1], device=own.device)
    mine = pairs.partner.unsqueeze(-1) == places  # (B, r, |odd|)
    return torch.maximum(own, torch.where(mine, theirs.unsqueeze(-1), 0.0).amax(dim=1))
