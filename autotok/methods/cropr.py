"""Cropr: a learned query per layer decides which tokens go; the last block gets them back.

Bergner, Lippert, Mahendran, "Token Cropr: Faster ViTs for Quite a Few Tasks", CVPR 2025, arXiv
2412.00965; code benbergner/cropr.

Behind a block, a token's score is its raw product with learned queries, summed over queries and
heads; the best stay, by falling score. The queries learn from an auxiliary cross-attention head
that classifies the image from the block's output; that branch is detached, so the backbone never
feels it, and it is gone at inference. With last-layer fusion (option `llf`) pruned tokens wait, as
they were, and join the others in front of the last block.

Departures: all prefix tokens are protected, and none is needed; scores are summed before the
products (one vector for all queries and heads, the same number); fused tokens return in raster
order; without labels the auxiliary heads learn the teacher's logits; answers of several queries
are averaged; the auxiliary branch has no value projection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Training
from .block_hooks import BlockHooks
from .learning import Learning, LossContext, TrainingRecipe
from .losses import self_distillation
from .occupancy import Occupancy
from .official_weights import OfficialWeights
from .primitives import park, recall, select, start_layers
from .registry import register


class Queries(nn.Module):
    """The scorer, and the training-only rest of its cross-attention."""

    def __init__(self, width: int, options: Options) -> None:
        super().__init__()
        self.heads = int(options["num_heads"])
        self.queries = nn.Parameter(torch.empty(1, int(options["num_queries"]), width))
        nn.init.trunc_normal_(self.queries, std=width**-0.5)
        self.q = nn.Linear(width, width, bias=False) if options["q_proj"] else nn.Identity()
        self.k = nn.Linear(width, width, bias=False) if options["k_proj"] else nn.Identity()
        norm = bool(options["pre_attn_norm"])
        self.attn_norm = nn.LayerNorm(width, eps=1e-6) if norm else nn.Identity()
        self.proj: nn.Module = nn.Linear(width, width) if self.heads > 1 else nn.Identity()
        self.mlp_norm: nn.Module = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def scores(self, patches: Tensor) -> Tensor:
        """(B, n): sum over queries and heads of query times key, unscaled; without a gradient."""
        direction = self.q(self.queries.detach()).sum(dim=1)  # (1, C)
        if isinstance(self.k, nn.Linear):
            direction = direction @ self.k.weight
        return F.linear(self.attn_norm(patches), direction).squeeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, C): what the queries read in tokens (B, N, C)."""
        x = self.attn_norm(x)
        q, k, v = (
            rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, M or N, D)
            for rows in (self.q(self.queries), self.k(x), x)
        )
        read = F.scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v)
        read = self.proj(read.transpose(1, 2).flatten(2))
        return read + self.mlp(self.mlp_norm(read))  # type: ignore[no-any-return]

    def deploy(self) -> None:
        """Keep the scorer only."""
        self.proj, self.mlp_norm = nn.Identity(), nn.Identity()
        self.mlp = nn.Sequential()


class Head(nn.Module):
    """The auxiliary classifier, (B, M, C) to (B, classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        # as the authors start it, with torch's usual 1e-5 in this norm and 1e-6 in the others
        start_layers(self.head)

    def forward(self, read: Tensor) -> Tensor:
        return self.head(self.norm(read)).mean(dim=1)  # type: ignore[no-any-return]


@register("cropr")
class Cropr(BlockHooks, OfficialWeights, Learning):
    """Keeps the tokens that learned queries ask for."""

    title = "Cropr (CVPR 2025)"
    kind = Kind.PRUNE
    placement = Placement.AFTER
    training_need = Training.REQUIRED
    requires = frozenset({"classes"})
    official_by_block = True
    official_names = ((r"cropr\.(\d+)\.(.+)", r"\2"),)
    options = (
        Option(
            "llf",
            True,
            "put pruned tokens back in front of the last block",
            search=True,
            model_wide=True,
        ),
        Option("num_queries", 1, "learned queries", low=1, high=16),
        Option("num_heads", 1, "heads of the cross-attention", low=1, high=16),
        Option("pre_attn_norm", False, "normalise tokens before they are scored"),
        Option("q_proj", False, "project the queries"),
        Option("k_proj", False, "project the keys"),
    )
    recipe = TrainingRecipe(
        losses={"ce": 1.0}, source="50 epochs, 1e-3 to 1e-6, layer decay 0.75 (MAE ViT-L)"
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        width = site.facts.blocks[site.layer].width
        if width % int(options["num_heads"]):
            raise ConfigError(
                f"option 'num_heads' of method 'cropr' is {options['num_heads']}, which does not"
                f" divide the width {width} of layer {site.layer}; choose a divisor, such as 1"
            )
        self.cross_attn = Queries(width, options)
        self.head: nn.Module = Head(width, site.facts.num_classes)
        self.answer: Tensor | None = None

    @classmethod
    def resolve_needs(cls, facts: BackboneFacts, options: Options) -> Needs:
        return Needs.GRID if options["llf"] else Needs.NONE

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        if self.training:
            self.answer = self.head(self.cross_attn(tokens.x.detach()))
        scores = self.cross_attn.scores(tokens.patches.detach())  # (B, n)
        if not self.values["llf"]:
            return select(tokens, scores.topk(num_keep, dim=1).indices)
        order = scores.argsort(dim=1, descending=True)
        return park(tokens, order[:, :num_keep], order[:, num_keep:])

    def before_last(self, tokens: Tokens) -> Tokens:
        return recall(tokens)

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """Cross-entropy of the auxiliary answer, or its distance to the teacher's logits."""
        if self.answer is None:
            return None
        answer = self.answer.float()
        if context.labels is not None:
            smoothing = context.label_smoothing
            return F.cross_entropy(answer, context.labels, label_smoothing=smoothing)
        if context.teacher_logits is None:
            return None
        return self_distillation(answer, context.teacher_logits)

    def deploy(self) -> None:
        self.cross_attn.deploy()
        self.head, self.answer = nn.Identity(), None

    @classmethod
    def occupancy(
        cls, layers: Sequence[int], counts: Counts, facts: BackboneFacts, options: Options
    ) -> Occupancy:
        """As for any pruning, but with `llf` the last block works on every token."""
        found = super().occupancy(layers, counts, facts, options)
        if not options["llf"] or not len(layers):
            return found
        attention, mlp = found.attention.copy(), found.mlp.copy()
        attention[:, -1] = mlp[:, -1] = facts.num_patches
        readout = np.full_like(found.readout, facts.num_patches)
        if layers[-1] == facts.num_blocks - 1:
            idle = found.entering[:, -1] == found.readout
            readout = np.where(idle, readout, found.readout)
        return dataclasses.replace(found, attention=attention, mlp=mlp, readout=readout)

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        width = facts.blocks[layer].width
        projected = int(options["num_queries"]) * bool(options["q_proj"]) + bool(options["k_proj"])
        return entering * width + projected * width * width

    @classmethod
    def joint_macs(
        cls, facts: BackboneFacts, layers: Sequence[int], counts: Counts, options: Options
    ) -> Counts:
        """Scores behind the last block are those of every token, if tokens came back before it."""
        total = super().joint_macs(facts, layers, counts, options)
        if not options["llf"] or len(layers) < 2 or layers[-1] != facts.num_blocks - 1:
            return total
        if counts.shape[1] < len(layers):  # stopped before the last block
            return total
        returned = (facts.num_patches - counts[:, -2]) * facts.blocks[-1].width
        return np.where(counts[:, -1] != counts[:, -2], returned, total)

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        width = facts.blocks[0].width
        matrices = bool(options["q_proj"]) + bool(options["k_proj"])
        norm = 2 * width if options["pre_attn_norm"] else 0
        return int(options["num_queries"]) * width + matrices * width * width + norm
