"""PiToMe: merge inside large clusters, protect what stands alone.

Tran, Nguyen, Nguyen, Nguyen, Le, Xie, Sonntag, Zou, Nguyen, Niepert, "Accelerating Transformers
with Spectrum-Preserving Token Merging", NeurIPS 2024, arXiv 2405.16148; code hchautran/PiToMe.

Each patch token has an energy: its mean clipped similarity to all others beyond a margin that
falls with depth. Tokens of high energy sit in large clusters and merge, size-weighted; the others
are protected. Early blocks match all tokens alternately in energy order ("bsm"), later ones only
the 2r of highest energy ("plain").

Departures: follows the authors' code, whose energy is ELU(x - margin), where the paper has x above
the margin. Proportional attention is off by default, as in effect in that code. All prefix tokens
are protected (the code merges a distillation token). Counts out of reach are errors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Site, TokenReducer, Training
from .matching import by_similarity, key_direction, unit_rows
from .merging import merge_ordered
from .primitives import gather_rows
from .registry import register


@register("pitome")
class PiToMe(TokenReducer):
    """Merges tokens of high energy."""

    title = "PiToMe (NeurIPS 2024)"
    kind = Kind.MERGE
    training_need = Training.OPTIONAL
    options = (
        Option("margin", 0.75, "similarity margin at block 0", low=-1.0, high=1.0, search=True),
        Option("alpha", 1.0, "depth of the ELU below the margin", low=0.0, high=10.0),
        Option(
            "variant",
            "auto",
            "who may merge: all in energy order (bsm) or the top 2r (plain); auto is bsm in the"
            " first half of the blocks",
            choices=("auto", "bsm", "plain"),
        ),
        Option(
            "proportional",
            False,
            "add log size to the attention logits of merged tokens",
            model_wide=True,
        ),
    )
    conserves_size = True
    needs = Needs.KEYS

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        depth = site.facts.num_blocks
        self.margin = float(self.values["margin"]) * (1.0 - site.layer / depth)
        auto = "bsm" if site.layer < (depth + 1) // 2 else "plain"
        self.variant = auto if self.values["variant"] == "auto" else str(self.values["variant"])

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        if options["variant"] == "bsm" and entering > 1:
            return entering // 2, entering
        return entering - entering // 2, entering

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return entering * entering * facts.blocks[layer].head_dim  # similarities

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        metric = key_direction(taps, tokens.num_prefix)  # (B, n, D)
        order, target, first = self._match(metric, tokens.num_patches - num_keep)
        return merge_ordered(tokens, order, target, first=first)

    @torch.no_grad()
    def _match(self, metric: Tensor, removed: int) -> tuple[Tensor, Tensor, int]:
        """Patches (B, n), survivors first; where the others go, (B, r); from which place on."""
        unit = unit_rows(metric)
        similarity = torch.bmm(unit, unit.transpose(1, 2))  # (B, n, n)
        above = similarity - self.margin
        energy = F.elu(above, alpha=float(self.values["alpha"]), inplace=True).sum(dim=-1)
        order = energy.argsort(dim=-1, descending=True)  # (B, n); so do means sort
        del above
        safe = order[:, order.shape[1] :]
        if self.variant == "plain":
            order, safe = order[:, : 2 * removed], order[:, 2 * removed :]
        even, odd = order[:, ::2], order[:, 1::2]
        rows = gather_rows(similarity, even)
        ranks, nearest = by_similarity(
            rows.gather(2, odd.unsqueeze(1).expand(-1, rows.shape[1], -1))
        )
        even, target = even.gather(1, ranks), nearest.gather(1, ranks[:, :removed])
        stay = even[:, removed:]
        kept = torch.cat([safe, stay, odd, even[:, :removed]], dim=1)
        return kept, target, safe.shape[1] + stay.shape[1]
