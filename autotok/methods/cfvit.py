"""CF-ViT: a coarse look first; a finer one at the patches that mattered, if it was not enough.

Chen, Lin, Li, Shen, Wu, Chao, Ji, "CF-ViT: A General Coarse-to-Fine Method for Vision Transformer",
AAAI 2023, arXiv 2203.03821; code ChenMnZ/CF-ViT.

The image is classified at half its side, with a quarter of the tokens. Where the highest
probability is below `threshold`, the share `alpha` of coarse patches that the class token attended
to most (a moving average over blocks) is split into four fine ones each, what the first pass made
of a patch is added to its four, the other patches stay coarse, and the same blocks run again.
Training takes both passes of every image: cross-entropy of the second, which also teaches the
first; in the first two thirds nothing is chosen and the second pass sees every fine patch.

Departures: the fine position table is always added (the released DeiT code drops it while nothing
is chosen: `fine_positions`); only chosen patches are embedded finely and reused, with the same
result; any grid of even sides; all prefix tokens are protected. An amount below all patches is the
most tokens of the second pass, in place of `alpha`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options, round_count
from autotok.facts import BackboneFacts
from autotok.tokens import Needs, Tokens, exactly

from .base import Count, Counts, Kind, Option, Placement, Site, Training
from .learning import Learning, LossContext, TrainingRecipe
from .losses import self_distillation
from .occupancy import Occupancy
from .official_weights import OfficialWeights
from .primitives import confidence, start_layers
from .registry import register
from .two_pass import FirstPass, Passes, Thinned, TwoPass

CHOOSES_FROM = 201 / 300
"""Share of the training after which patches are chosen."""


@register("cfvit")
class CFViT(TwoPass, Learning, OfficialWeights):
    """Classifies at half the side, and splits the patches that mattered where that is unsure."""

    title = "CF-ViT (AAAI 2023)"
    kind = Kind.HYBRID
    placement = Placement.BEFORE_BLOCKS
    training_need = Training.REQUIRED
    count = Count.ADAPTIVE
    single_layer = True
    exportable = False
    requires = frozenset({"supervised_cls", "plain_stem", "even_grid"})
    options = (
        Option(
            "alpha",
            0.5,
            "share of coarse patches that are split",
            low=0,
            high=1,
            search=True,
            model_wide=True,
        ),
        Option(
            "threshold",
            1.0,
            "confidence at which the coarse answer holds",
            low=0.0,
            high=1.1,
            model_wide=True,
        ),
        Option(
            "beta",
            0.99,
            "how much a block's attention keeps of earlier ones",
            low=0,
            high=1,
            model_wide=True,
        ),
        Option(
            "attention_from",
            3,
            "first block whose attention counts",
            low=0,
            high=100,
            model_wide=True,
        ),
        Option(
            "fine_positions",
            True,
            "positions where nothing is chosen; released: none",
            model_wide=True,
        ),
    )
    recipe = TrainingRecipe(
        losses={"ce": 1.0}, source="ChenMnZ/CF-ViT: 300 epochs of DeiT's recipe, 201 without choice"
    )

    official_names = (
        (r"pos_embed_list\.(0)", r"positions"),
        (r"reuse_block()\.(.*)", r"reuse.\2"),
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        facts, width = site.facts, site.facts.blocks[0].width
        rows, columns = coarse_grid(facts)
        table = torch.empty(1, facts.num_prefix + rows * columns, width)
        self.positions = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        fc1, fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))
        start_layers(mlp)
        self.reuse = nn.Sequential(nn.LayerNorm(width, eps=1e-6), mlp)
        self.chooses = True
        """In training; evaluation always chooses."""
        self.coarse_logits: Tensor | None = None

    # --- the two passes

    def first_pass(self, backbone: Passes, images: Tensor, thinned: Thinned) -> FirstPass:
        stem, facts = backbone.stem_parts(), self.site.facts
        size = (images.shape[-2] // 2, images.shape[-1] // 2)
        small = F.interpolate(images, size=size, mode="bilinear", align_corners=True)
        prefix = stem.prefix.expand(len(images), -1, -1)
        with exactly(images):
            embedded = torch.cat([prefix, stem.patches(small)], dim=1) + self.positions
            entered = stem.enter(embedded)
        tokens = Tokens(entered, facts.num_prefix, coarse_grid(facts))
        beta, score = float(self.values["beta"]), 0.0 * tokens.patches[..., 0].detach()
        heard = _heard(facts, self.values)
        for layer in range(facts.num_blocks):
            needs = Needs.CLS_ATTENTION if layer in heard else Needs.NONE
            branch, taps = backbone.attend(layer, tokens, needs)
            tokens = tokens.with_x(tokens.x + thinned(layer, branch))
            if needs:
                row = taps.cls_attention.detach().mean(dim=1)[:, facts.num_prefix :]
                score = beta * score + (1.0 - beta) * row
            tokens = tokens.with_x(tokens.x + thinned(layer, backbone.feed(layer, tokens)))
        logits = backbone.readout(tokens)
        self.coarse_logits = logits if self.training else None
        return FirstPass(logits, tokens, embedded, score)

    def unsure(self, logits: Tensor) -> Tensor:
        return confidence(logits) < float(self.values["threshold"])

    def second_tokens(
        self, backbone: Passes, images: Tensor, first: FirstPass, *, trace: bool = False
    ) -> Tokens:
        with exactly(images):
            return self._second_tokens(backbone, images, first, trace)

    def _second_tokens(
        self, backbone: Passes, images: Tensor, first: FirstPass, trace: bool
    ) -> Tokens:
        facts, stem = self.site.facts, backbone.stem_parts()
        prefix, coarse = facts.num_prefix, first.score.shape[1]
        chooses = self.chooses or not self.training
        count = int(num_split(facts, self.values, self.site.num_keep)) if chooses else coarse
        order = first.score.argsort(dim=1, descending=True)  # ties: any of them
        chosen, rest = order[:, :count], order[:, count:]
        fine = children(chosen, facts.grid)  # (B, 4 k)
        found = stem.norm(first.tokens.x)[:, prefix:]
        reused = self.reuse(_taken(found, chosen)).repeat(1, 4, 1)
        patches = stem.patches(_cut(images, fine, facts)).reshape(*fine.shape, found.shape[-1])
        rows, parts = stem.positions.expand(len(images), -1, -1), patches + reused
        front = stem.prefix.expand(len(images), -1, -1)
        if chooses or self.values["fine_positions"]:
            parts, front = parts + _taken(rows[:, prefix:], fine), front + rows[:, :prefix]
        kept = _taken(first.embedded[:, prefix:], rest)
        x = stem.enter(torch.cat([front, parts, kept], dim=1))
        size = torch.cat([torch.ones_like(fine), torch.full_like(rest, 4)], dim=1).to(x.dtype)
        source = _sources(fine, rest, facts.grid) if trace else None
        return Tokens(x, prefix, facts.grid, raster=False, size=size, source=source)

    # --- training

    def begin_step(self, progress: float) -> None:
        self.chooses = progress >= CHOOSES_FROM

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """KL of the coarse answer from the fine one, which does not learn from it."""
        if self.coarse_logits is None:
            return None
        return self_distillation(self.coarse_logits.float(), context.logits)

    def deploy(self) -> None:
        self.coarse_logits = None

    # --- counts and costs

    @classmethod
    def feasible(cls, entering: int, options: Options) -> tuple[int, int]:
        return max(1, entering // 4), entering

    @classmethod
    def occupancy(
        cls, layers: Sequence[int], counts: Counts, facts: BackboneFacts, options: Options
    ) -> Occupancy:
        found = super().occupancy(layers, counts, facts, options)
        if not layers:
            return found
        many = num_coarse(facts) + 3 * num_split(facts, options, found.readout)  # (M,)
        blocks = np.repeat(many[:, None], facts.num_blocks, axis=1)
        return Occupancy(found.entering, blocks, blocks, many)

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        split, width = num_split(facts, options, keep), facts.blocks[0].width
        embedded = (4 * split - facts.num_patches) * (facts.stem_macs // facts.num_patches)
        return cls.first_pass_macs(facts, options)[0] + embedded + 8 * width * width * split

    @classmethod
    def first_pass_macs(cls, facts: BackboneFacts, options: Options) -> tuple[int, int]:
        rows = num_coarse(facts) + facts.num_prefix
        linear = facts.stem_macs // 4 + facts.readout_macs + rows * facts.readout_macs_per_token
        products = 0
        for layer, block in enumerate(facts.blocks):
            linear += rows * (4 * block.width * block.inner_width)
            linear += rows * block.linear_macs_extra_per_token
            linear += rows * block.mlp_matrices * block.width * block.hidden
            products += 2 * rows * rows * block.inner_width
            if layer in _heard(facts, options) and not facts.explicit_attention:
                products += rows * block.inner_width
        return linear, products

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        width = facts.blocks[0].width
        table = (facts.num_prefix + num_coarse(facts)) * width
        return table + 2 * width + 8 * width * width + 5 * width


def coarse_grid(facts: BackboneFacts) -> tuple[int, int]:
    """Rows and columns of the coarse patches."""
    return facts.grid[0] // 2, facts.grid[1] // 2


def num_coarse(facts: BackboneFacts) -> int:
    """Coarse patches N_c."""
    rows, columns = coarse_grid(facts)
    return rows * columns


def num_split(facts: BackboneFacts, options: Options, keep: Counts | int) -> Counts:
    """Coarse patches that are split: k = ceil(alpha N_c), or as many as leave `keep` tokens at most
    where that is fewer than there are fine patches."""
    coarse, kept = num_coarse(facts), np.asarray(keep, dtype=np.int64)
    usual = round_count(float(options["alpha"]), coarse, "ceil")
    return np.where(kept >= facts.num_patches, usual, (kept - coarse) // 3)


def children(coarse: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 4 k) fine patches of coarse ones (B, k): all top left, then all top right, bottom left,
    bottom right; `grid` is the fine one."""
    columns = grid[1]
    row = torch.div(coarse, columns // 2, rounding_mode="floor")
    first = 2 * row * columns + 2 * (coarse % (columns // 2))
    return torch.cat([first, first + 1, first + columns, first + columns + 1], dim=1)


def _heard(facts: BackboneFacts, options: Options) -> range:
    """Blocks whose class row counts."""
    return range(min(int(options["attention_from"]), facts.num_blocks - 1), facts.num_blocks)


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    """(B, k, C) of rows (B, n, C)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def _cut(images: Tensor, index: Tensor, facts: BackboneFacts) -> Tensor:
    """(B k, channels, p, p): patches (B, k) of images, each an image."""
    (rows, columns), (high, wide) = facts.grid, facts.patch_size
    parts = images.unflatten(-1, (columns, wide)).unflatten(-3, (rows, high))
    flat = parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, channels p p)
    return _taken(flat, index).reshape(-1, images.shape[1], high, wide)


def _sources(fine: Tensor, rest: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 4 k + rest, N) bool: the fine patches that each token holds."""
    total = grid[0] * grid[1]
    alone = F.one_hot(fine, total).bool()
    four = children(rest, grid).unflatten(1, (4, -1))  # (B, 4, rest)
    return torch.cat([alone, F.one_hot(four, total).sum(dim=1).bool()], dim=1)
