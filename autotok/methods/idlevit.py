"""IdleViT: tokens sit a block out unchanged and may be chosen again in the next.

Xu, Li, Chen, Chang, Liu, Wang, "No Token Left Behind: Efficient Vision Transformer via Dynamic
Token Idling", AJCAI 2023, arXiv 2310.05654; code Ackesnal/IdleViT.

Before a block, all patches are ranked by the product of the class token's query with their keys,
raw and averaged over heads. The best go through the block with the class token; the others wait and
are put back behind it, so nothing is ever lost. Training runs the same way and adds a graph-cut
loss, that chosen and idle tokens attend among their own kind, and one that keeps the class token's
features near the uncompressed model's.

Departures: all prefix tokens work in every block; where the class token is unsupervised or missing,
the mean of all queries stands in (option `score`). Queries and keys enter without relative
positions. Cut losses of all layers count, where the authors' loop skips every other one; the
features compared are those before the final norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Span, Training
from .block_hooks import BlockHooks
from .learning import Learning, LossContext, TrainingRecipe
from .losses import idlevit_cut, idlevit_features
from .primitives import park, recall
from .registry import register
from .scoring import SCORE, score_needs


@register("idlevit")
class IdleViT(BlockHooks, Learning):
    """Runs each block on the tokens that its class query points at."""

    title = "IdleViT (AJCAI 2023)"
    kind = Kind.PRUNE
    placement = Placement.BEFORE
    span = Span.BLOCK
    training_need = Training.OPTIONAL
    rounding = "floor"
    options = (
        SCORE,
        Option("cut_weight", 20.0, "weight of the cut loss", low=0.0, high=1000.0),
        Option(
            "feature_weight",
            500.0,  # 100 times the authors' w_d, which is 5 and weighs the logits alone as well
            "weight of the feature loss",
            low=0.0,
            high=10000.0,
            model_wide=True,
        ),
    )
    needs = Needs.GRID | Needs.CLS_QUERY | Needs.KEYS
    recipe = TrainingRecipe(
        losses={"ce": 1.0, "soft": 5.0},
        source="Ackesnal/IdleViT: 30 epochs, 1e-5 to 1e-6 (batch 512)",
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.cut: tuple[Tensor, Tensor] | None = None

    @classmethod
    def resolve_needs(cls, facts: BackboneFacts, options: Options) -> Needs:
        by_class = score_needs(cls.name, facts, options) & Needs.CLS_ATTENTION
        return Needs.GRID | Needs.KEYS | (Needs.CLS_QUERY if by_class else Needs.QUERIES)

    def train(self, mode: bool = True) -> IdleViT:
        """Training looks at all queries, for the cut loss."""
        self.needs = self.needs | Needs.QUERIES if mode else self.needs
        if not mode and self.needs & Needs.CLS_QUERY:
            self.needs &= ~Needs.QUERIES
        super().train(mode)
        return self

    @classmethod
    def notes(cls, facts: BackboneFacts, options: Options) -> tuple[str, ...]:
        by_class = score_needs(cls.name, facts, options) & Needs.CLS_ATTENTION
        return (f"score: keys against {'the class query' if by_class else 'the mean query'}",)

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return entering * facts.blocks[layer].inner_width  # one query against every key

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        order = self._scores(taps, tokens.num_prefix).argsort(dim=1, descending=True)
        index, rest = order[:, :num_keep], order[:, num_keep:]
        if self.training and "queries" in taps.names():
            chosen = torch.zeros_like(order, dtype=tokens.x.dtype).scatter(1, index, 1.0)
            self.cut = (_mean_logits(taps), F.pad(chosen, (tokens.num_prefix, 0), value=1.0))
        return park(tokens, index, rest)

    @torch.no_grad()
    def _scores(self, taps: Taps, prefix: int) -> Tensor:
        """(B, n): raw products of one query with the patches' keys, mean over heads."""
        keys = taps.keys[:, :, prefix:]
        by_class = self.needs & Needs.CLS_QUERY
        query = taps.cls_query if by_class else taps.queries.mean(dim=2, keepdim=True)
        return (query @ keys.transpose(-2, -1)).mean(dim=1).squeeze(1)

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        return recall(tokens) if layer == self.site.layer else tokens

    def teacher_layers(self) -> frozenset[int]:
        wanted = self.site.is_last and self.site.facts.has_cls
        return frozenset({self.site.facts.num_blocks - 1} if wanted else ())

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """This layer's share of the cut loss; the last one adds the class features'."""
        terms = []
        if self.cut is not None:
            logits, mask = self.cut
            share = float(self.values["cut_weight"]) / max(1, len(self.site.layers))
            terms.append(share * idlevit_cut(logits.float().unsqueeze(1), mask.float()).sum())
        for full in context.teacher.values():
            features = idlevit_features(context.tokens.x[:, 0].float(), full[:, 0].float())
            terms.append(float(self.values["feature_weight"]) * features)
        return torch.stack(terms).sum() if terms else None

    def deploy(self) -> None:
        self.cut = None


def _mean_logits(taps: Taps) -> Tensor:
    """(B, N, N): raw products of all queries and keys, mean over heads."""
    queries, keys = (values.transpose(1, 2).flatten(2) for values in (taps.queries, taps.keys))
    return (queries @ keys.transpose(-2, -1)) / taps.keys.shape[1]
