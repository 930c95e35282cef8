"""SiT: a small MLP writes every output token as a convex combination of the input tokens.

Zong, Li, Song, Wang, Qiao, Leng, Liu, "Self-slimmed Vision Transformer", ECCV 2022, arXiv
2111.12624; code Sense-X/SiT.

The token slimming module maps each token to K logits; a softmax over tokens turns them into the
weights of K output tokens. In training, reverse modules expand the slimmed tokens of every later
block back to N0 tokens, which have to equal the uncompressed model's there (feature recalibration).

Departures: the distillation token's CNN teacher is left out, as in the released runs; means over
blocks count the tokens a block hands on, so the slimmed tokens stand for the block before; a layer
that keeps all tokens leaves them as they are, where the module would mix them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Training
from .block_hooks import BlockHooks
from .clustering import OFFICIAL, TRACK_SIZE
from .learning import Learning, LossContext, TrainingRecipe
from .official_weights import OfficialWeights
from .primitives import pool, start_layers
from .registry import register


@register("sit")
class SiT(BlockHooks, OfficialWeights, Learning):
    """Pools tokens with weights that an MLP reads off each of them."""

    title = "SiT (ECCV 2022)"
    kind = Kind.POOL
    placement = Placement.BEFORE
    training_need = Training.REQUIRED
    rounding = "floor"
    official_names = OFFICIAL
    options = (
        Option("token_loss", 2.0, "weight of the feature recalibration loss", low=0.0, high=100.0),
        TRACK_SIZE,
    )
    recipe = TrainingRecipe(
        losses={"ce": 1.0, "soft": 2.0},
        source="Sense-X/SiT: 125 epochs, lr 2e-4, no warm-up, teacher the unslimmed network",
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        width = site.facts.blocks[site.layer].width
        self.weight = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, site.num_keep),
        )
        self.scale = nn.Parameter(torch.ones(1, 1, 1))
        self.reverse = nn.ModuleDict(
            {str(block): _Reverse(width, site) for block in self._slimmed_blocks()}
        )
        self.seen: dict[int, Tensor] = {}
        start_layers(self)

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        width = facts.blocks[layer].width
        return entering * (width // 2) * (width + keep) + keep * entering * width

    @classmethod
    def site_params(cls, site: Site, options: Options) -> int:
        width = site.facts.blocks[site.layer].width
        half = width // 2
        return 2 * width + (width + 1) * half + (half + 1) * site.num_keep + 1

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        logits = self.scale * self.weight(tokens.patches)  # (B, n, k)
        weights = logits.softmax(dim=1).transpose(1, 2)
        out = pool(tokens, weights, track_size=bool(self.values["track_size"]))
        self._remember(self.site.layer - 1, out)
        return out

    # --- feature recalibration, training only

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        if layer in self.teacher_layers() and layer != self.site.layer - 1:
            self._remember(layer, tokens)
        return tokens

    def teacher_layers(self) -> frozenset[int]:
        early = range(self.site.layer - 1) if self.site.index == 0 else range(0)
        return frozenset({*early, *map(int, self.reverse)})

    def extra_loss(self, context: LossContext) -> Tensor | None:
        pairs = [(b, x, context.teacher[b]) for b, x in self.seen.items() if b in context.teacher]
        if not pairs or not self.values["token_loss"]:
            return None
        prefix, errors = context.tokens.num_prefix, []
        for block, mine, theirs in pairs:
            if str(block) in self.reverse:
                mine = self.reverse[str(block)](mine)
            errors.append(F.mse_loss(mine, theirs[:, prefix:].detach()))
        mean = torch.stack(errors).sum() / self.site.facts.num_blocks  # other sites add theirs
        return float(self.values["token_loss"]) * mean

    def deploy(self) -> None:
        self.reverse = nn.ModuleDict()
        self.seen = {}

    def _slimmed_blocks(self) -> range:
        """Blocks whose outgoing tokens this site's count decides."""
        later = [layer for layer in self.site.layers if layer > self.site.layer]
        end = later[0] - 1 if later else self.site.facts.num_blocks
        return range(max(0, self.site.layer - 1), end)

    def _remember(self, block: int, tokens: Tokens) -> None:
        if self.training and block >= 0:
            self.seen[block] = tokens.patches


class _Reverse(nn.Module):
    """K tokens back to N0: an MLP over tokens, then a residual one over channels."""

    def __init__(self, width: int, site: Site) -> None:
        super().__init__()
        total = site.facts.num_patches
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = _mlp(site.num_keep, 4 * total, total)
        self.channels = _mlp(width, 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N0, C) of (B, K, C)."""
        full: Tensor = self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        both: Tensor = full + self.channels(self.norm2(full))
        return both


def _mlp(inner: int, hidden: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, hidden), nn.GELU(), nn.Linear(hidden, outer))
