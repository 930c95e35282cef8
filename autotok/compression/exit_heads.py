"""Heads of exits: an answer from the tokens that leave a block, without the final norm.

Linear heads, a transformer block of their own, and LGViT's: Xu, Hao, Shen, Hu, Luo, Lin, Shen,
"LGViT: Dynamic Early Exiting for Accelerating Vision Transformer", ACM MM 2023, arXiv 2308.00255;
code falcon-xu/LGViT. METR's: `autotok.methods.metr`. Parameters have their authors' names.

Departures: tokens may be reduced. 1 x 1 convolutions work on any set; the mean over tokens leaves
padding out and weighs merged ones by size; a thinned grid takes live tokens at multiples of r, or
all of them where fewer than half of the grid's m are alive or no more than m are. What masked
training has dropped is treated as if it were gone, but for the statistics of batch norms. Mean
pooling stands in for the class token where that is unsupervised.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.attention import attention
from autotok.backbones.base import pool_mean
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.methods.metr import early_head
from autotok.methods.primitives import start_layers
from autotok.tokens import Needs, Tokens, is_watched

HEADS = 8
"""Of thinned attention, whatever the backbone has."""


def is_distilled(facts: BackboneFacts) -> bool:
    """Two tokens answer, each through its own classifier."""
    return facts.pooling == "cls+dist"


class Read(nn.Module):
    """Base of all heads: tokens in, (logits (B, K), features (B, m, C)) out."""

    def __init__(self, facts: BackboneFacts, layer: int) -> None:
        super().__init__()
        self.width, self.classes = facts.blocks[layer].width, facts.num_classes
        self.distilled = is_distilled(facts)
        self.by_class = facts.has_cls and facts.cls_is_supervised

    def classifiers(self) -> None:
        """Add them, under their authors' names."""
        names = ("cls_classifier", "distillation_classifier") if self.distilled else ("classifier",)
        for name in names:
            self.add_module(name, nn.Linear(self.width, self.classes))

    def answer(self, *summaries: Tensor) -> Tensor:
        """(B, K): the mean over the classifiers' answers to a summary (B, C) each."""
        if not self.distilled:
            return self.get_submodule("classifier")(summaries[0])  # type: ignore[no-any-return]
        first = self.get_submodule("cls_classifier")(summaries[0])
        return (first + self.get_submodule("distillation_classifier")(summaries[1])) / 2  # type: ignore[no-any-return]

    def summaries(self, tokens: Tokens) -> list[Tensor]:
        """(B, C) of each token that answers, or the patches' mean."""
        if not self.by_class:
            return [pool_mean(tokens.patches, tokens)]
        return [tokens.x[:, 0], tokens.x[:, 1]] if self.distilled else [tokens.x[:, 0]]

    def rows(self, tokens: Tokens, *, with_padding: bool = False) -> Tensor:
        """(B,) int64: patch tokens of each image that the head's products run over; padding too
        where the method runs as many rows of every image."""
        count = tokens.num_patches
        if tokens.live is not None and not with_padding:
            return tokens.live.sum(dim=1)
        return torch.full((tokens.x.shape[0],), count, device=tokens.x.device)


class ClassRead(Read):
    """A linear head on the class token, behind a pooler or, distilled, a norm."""

    def __init__(self, facts: BackboneFacts, layer: int) -> None:
        super().__init__(facts, layer)
        if self.distilled:
            self.layernorm = nn.LayerNorm(self.width, eps=1e-6)
        else:
            self.pooler = nn.Module()
            self.pooler.dense = nn.Linear(self.width, self.width)
        self.classifiers()

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        summaries = self.summaries(tokens)
        if self.distilled:
            summaries = [self.layernorm(token) for token in summaries]
        else:
            dense = self.pooler.dense
            assert isinstance(dense, nn.Linear)
            summaries = [dense(summaries[0]).tanh()]
        return self.answer(*summaries), torch.stack(summaries, dim=1).mean(dim=1, keepdim=True)


class EarlyRead(Read):
    """METR's head, kept for use."""

    def __init__(self, facts: BackboneFacts, layer: int) -> None:
        super().__init__(facts, layer)
        self.head = early_head(self.width, self.classes)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        summary = self.summaries(tokens)[0]
        return self.head(summary), summary.unsqueeze(1)


class BlockRead(Read):
    """One more pre-norm transformer block on all tokens, and a linear head."""

    def __init__(self, facts: BackboneFacts, layer: int) -> None:
        super().__init__(facts, layer)
        self.heads, width = facts.blocks[layer].heads, self.width
        self.layer = nn.ModuleDict(
            {
                "layernorm_before": nn.LayerNorm(width, eps=1e-6),
                "attention": nn.ModuleDict(
                    {
                        "attention": nn.ModuleDict(
                            {word: nn.Linear(width, width) for word in ("query", "key", "value")}
                        ),
                        "output": nn.ModuleDict({"dense": nn.Linear(width, width)}),
                    }
                ),
                "layernorm_after": nn.LayerNorm(width, eps=1e-6),
                "intermediate": nn.ModuleDict({"dense": nn.Linear(width, 4 * width)}),
                "output": nn.ModuleDict({"dense": nn.Linear(4 * width, width)}),
            }
        )
        self.classifier = ClassRead(facts, layer)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        part, x = self.layer.get_submodule, tokens.x
        normed = part("layernorm_before")(x)
        q, k, v = (
            part(f"attention.attention.{word}")(normed)
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
            for word in ("query", "key", "value")
        )
        whole = dataclasses.replace(tokens.rule, sparsity=1.0)  # GTP's is of its own blocks
        read, _ = attention(q, k, v, dataclasses.replace(tokens, rule=whole), Needs.NONE)
        x = x + part("attention.output.dense")(read.transpose(1, 2).flatten(2))
        inner = F.gelu(part("intermediate.dense")(part("layernorm_after")(x)))
        return self.classifier(tokens.with_x(x + part("output.dense")(inner)))  # type: ignore[no-any-return]


class LocalRead(Read):
    """LGViT's local head: 1 x 1 convolutions, with a depth-wise 3 x 3 between them or not."""

    def __init__(self, facts: BackboneFacts, layer: int, *, depthwise: bool) -> None:
        super().__init__(facts, layer)
        self.depthwise, width = depthwise, self.width
        self.mlp = nn.ModuleDict(
            {"conv1": nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))}
        )
        if depthwise:
            self.mlp["proj"] = nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.mlp["proj_bn"] = nn.BatchNorm2d(width)
        self.mlp["conv2"] = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.classifiers()

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        rows = tokens.patches
        features = rows + self._inner(rows, tokens.grid) if rows.shape[1] else rows
        mean = pool_mean(features, tokens)
        own = self.summaries(tokens) if self.by_class else [torch.zeros_like(mean)]
        return self.answer(*(mean + token for token in own)), features

    def _inner(self, rows: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n, C) of rows (B, n, C), of which there is one at least."""
        shape = grid if self.depthwise else (rows.shape[1], 1)
        inner = self.mlp["conv1"](rows.transpose(1, 2).unflatten(2, shape))
        if self.depthwise:
            inner = self.mlp["proj_bn"](F.gelu(self.mlp["proj"](inner)))
        found: Tensor = self.mlp["conv2"](inner).flatten(2).transpose(1, 2)
        return found


class ThinnedRead(Read):
    """LGViT's global head: attention among every r-th token of every r-th row."""

    def __init__(self, facts: BackboneFacts, layer: int, *, step: int) -> None:
        super().__init__(facts, layer)
        self.step, width = step, self.width
        if width % HEADS:
            raise ConfigError(
                f"exit kind 'global-{step}' at layer {layer} needs a width that {HEADS} divides,"
                f" and backbone '{facts.name}' has {width}; choose linear or local there"
            )
        self.mlp = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width, bias=False), "proj": nn.Linear(width, width)}
        )
        self.classifiers()

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        rows, there = self.thinned(tokens)
        projected = self.mlp["qkv"](rows).unflatten(-1, (3, HEADS, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4).unbind(0)
        seen = None if there is None else there[:, None, None]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        features = self.mlp["proj"](read.transpose(1, 2).flatten(2))
        if there is None:
            mean = features.mean(dim=1) if features.shape[1] else features.sum(dim=1)
        else:
            total = there.to(features.dtype).sum(1, keepdim=True).clamp_min(1.0)
            mean = features.masked_fill(~there.unsqueeze(-1), 0.0).sum(1) / total
        own = self.summaries(tokens) if self.by_class else [torch.zeros_like(mean)]
        return self.answer(*(mean + token for token in own)), features

    def thinned(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """(B, m, C) of the tokens that are read, and (B, m) which of them are no padding."""
        patches = tokens.patches
        if tokens.raster and tokens.mask is None:
            thin = patches.unflatten(1, tokens.grid)[:, :: self.step, :: self.step]
            return thin.flatten(1, 2), None
        chosen = self.chosen(tokens)
        if chosen is None:
            return patches, None
        if is_watched():
            return patches, chosen  # how many there are is no part of a static graph
        order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)
        length = int(chosen.sum(dim=1).max())
        first = order[:, :length]
        there = chosen.gather(1, first)
        rows = patches.gather(1, first.unsqueeze(-1).expand(-1, -1, patches.shape[2]))
        return rows, None if bool(there.all()) else there

    def chosen(self, tokens: Tokens) -> Tensor | None:
        """(B, n) bool of reduced tokens; None for all of every image (on the meta device too,
        where what an image holds is not known)."""
        number, present = self.number(tokens.grid), tokens.present
        if present is None and (tokens.num_patches <= number or tokens.x.is_meta):
            return None
        live = torch.ones_like(tokens.patches[..., 0], dtype=torch.bool)
        live = live if present is None else present
        assert tokens.coords is not None  # asked for of the embedding
        picked = (tokens.coords % self.step == 0).all(dim=-1) & live
        few = 2 * picked.sum(1, keepdim=True) < number
        return picked | (live & (few | (live.sum(1, keepdim=True) <= number)))

    def number(self, grid: tuple[int, int]) -> int:
        """Tokens of the whole grid that are read."""
        return -(-grid[0] // self.step) * -(-grid[1] // self.step)

    def rows(self, tokens: Tokens, *, with_padding: bool = False) -> Tensor:
        whole = super().rows(tokens, with_padding=with_padding)
        if tokens.raster:
            return torch.full_like(whole, self.number(tokens.grid))
        chosen = self.chosen(tokens)
        return whole if chosen is None else chosen.sum(dim=1)


def exit_head(kind: str, facts: BackboneFacts, layer: int) -> Read:
    """A new head behind block `layer`, as its authors start it.

    Raises:
        ConfigError: a width that the kind cannot take.
    """
    if kind == "metr":
        return EarlyRead(facts, layer)
    head: Read
    if kind in ("linear", "vit"):
        head = (ClassRead if kind == "linear" else BlockRead)(facts, layer)
    elif kind in ("local", "local-dw"):
        head = LocalRead(facts, layer, depthwise=kind == "local-dw")
    else:
        head = ThinnedRead(facts, layer, step=int(kind.removeprefix("global-")))
    start_layers(head)
    return head
