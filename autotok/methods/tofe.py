"""ToFe: freeze tokens for a stage, then guess what they would have become and take them back.

Zhang, Zhang, Guo, "ToFe: Lagged Token Freezing and Reusing for Efficient Vision Transformer
Inference", arXiv 2507.16260; no public code, written from the paper's equations.

In front of a stage a selector MLP judges every patch token; the others are frozen. The blocks of
the stage run on what was kept. In front of the next stage a small residual MLP, the approximator,
replaces each frozen token by an estimate, tokens return to their places, and a new selector judges
all of them again: what a stage keeps is independent of earlier stages. `tofe` keeps the same number
for every image (the best by the selector; training records how many), `tofe-instance` whatever each
image's selector wants. Training runs the masked form at full length, with hard Gumbel decisions.

Departures: widths, activations, the column that means "keep" and a start at which estimates are the
tokens themselves are choices, as the paper leaves them open; estimates are made when a token is
frozen (the same numbers), and none after the last stage. The budget loss is in units of the
uncompressed model's cost, its target the configured counts, all of a block's linear layers as in
the backbone at hand. The approximation loss is a mean over frozen tokens and channels, the size at
which the published weights are of use, and has no gradient to the decisions. `threshold` moves the
decision of `tofe-instance`, 0 is the argmax. Where the read-out looks at patches, an image always
keeps one. `reuse`, `selector` and `approximator` are the paper's ablations (Tables II to IV).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.tokens import Parked, Taps, Tokens

from .approximators import estimates, looks_around
from .base import Count, Option
from .freezing import Freezing
from .predictors import keep_one, threshold_for
from .primitives import park, recall, select, select_ragged
from .registry import register
from .thresholds import Calibrated


@register("tofe")
class ToFe(Freezing):
    """Keeps the best of all tokens for a stage; the others wait and come back as estimates."""

    title = "ToFe, batch-adaptive (2025)"

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        if self.training:
            return self.mask(tokens, num_keep)
        tokens = recall(tokens)
        if num_keep == tokens.num_patches:
            return tokens
        logits = self.verdict(tokens.patches)
        gap = logits[..., 0] - logits[..., 1]  # (B, n)
        if self.approximator is None:  # nothing comes back after the last stage
            return select(tokens, gap.topk(num_keep, dim=1).indices)
        order = gap.argsort(dim=1, descending=True)
        frozen = order[:, num_keep:]
        out = park(tokens, order[:, :num_keep], frozen)
        waiting = out.parked[-1]
        x = estimates(self.approximator, tokens.patches, frozen)
        estimate = dataclasses.replace(waiting, x=x)
        return dataclasses.replace(out, parked=(*out.parked[:-1], estimate))


@register("tofe-instance")
class ToFeInstance(Calibrated, Freezing):
    """Keeps, for a stage, whatever tokens the image's selector wants; the others come back."""

    title = "ToFe, instance-adaptive (2025)"
    count = Count.ADAPTIVE
    calibrates = "threshold"
    exportable = False
    options = (
        *Freezing.options,
        Option(
            "threshold", 0.0, "log-odds of being kept above which a token is", low=-1e4, high=1e4
        ),
    )

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        if self.training:
            return self.mask(tokens, num_keep)
        tokens = _returned(tokens)
        logits, live = self.verdict(tokens.patches, tokens.live), tokens.live
        gap = logits[..., 0] - logits[..., 1]  # (B, n)
        if live is not None:
            gap = gap.masked_fill(~live, -torch.inf)
        if self.calibrating:
            self.values["threshold"] = threshold_for(gap, live, num_keep)
        keep = (gap > float(self.values["threshold"])).to(gap.dtype)
        keep = keep_one(keep, gap, self.site.facts) > 0.5
        out = select_ragged(tokens, keep, nominal=num_keep)
        if self.approximator is None:
            return out
        assert tokens.coords is not None
        waiting = Parked(self._store(tokens, keep, num_keep), tokens.coords, tokens.size)
        waiting = dataclasses.replace(waiting, source=tokens.source)
        return dataclasses.replace(out, parked=(waiting,))

    def _store(self, tokens: Tokens, keep: Tensor, num_keep: int) -> Tensor:
        """(B, N0, C): every patch, frozen ones as estimates."""
        assert self.approximator is not None
        patches = tokens.patches
        if looks_around(self.approximator):
            return torch.where(keep.unsqueeze(-1), patches, self.approximator(patches))
        if patches.is_meta:  # counts are nominal there
            self.approximator(patches[:, num_keep:])
            return patches.clone()
        frozen = ~keep
        return patches.index_put((frozen,), self.approximator(patches[frozen]))


def _returned(tokens: Tokens) -> Tokens:
    """All patches in raster order: those that ran on their places, the others as parked."""
    if not tokens.parked:
        return tokens
    (waiting,) = tokens.parked
    assert tokens.coords is not None
    total = waiting.x.shape[1]
    cell = tokens.coords[..., 0] * tokens.grid[1] + tokens.coords[..., 1]  # (B, k)
    if tokens.live is not None:
        cell = torch.where(tokens.live, cell, total)  # padding goes to a row that is cut off
    rows = F.pad(waiting.x, (0, 0, 0, 1))
    index = cell.unsqueeze(-1).expand(-1, -1, rows.shape[2])
    patches = rows.scatter(1, index, tokens.patches)[:, :total]
    return dataclasses.replace(
        tokens,
        x=torch.cat([tokens.prefix, patches], dim=1),
        raster=True,
        size=waiting.size,
        coords=waiting.coords,
        source=waiting.source,
        live=None,
        parked=(),
        extras={},
    )
