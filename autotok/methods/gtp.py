"""GTP-ViT: pass what goes on to its neighbours in a graph of tokens.

Xu, Wang, Chen, Cheng, Yang, Wang, "GTP-ViT: Efficient Vision Transformers via Graph-based Token
Propagation", WACV 2024, arXiv 2311.03035; code Ackesnal/GTP-ViT.

Before block 0 a graph joins patches that touch (spatial), look alike (semantic) or either (mixed),
normalised by the square roots of the degrees. Between attention and MLP, patches are ranked, the
lowest ones go, and each survivor gains `alpha` times the features of the gone ones it is joined to.
Survivors stand by falling score. Attention may be made sparse: per head, its smallest entries
become 0.

Departures: all prefix tokens are protected; any grid; a patch with no neighbour stays unjoined,
where the authors' code divides by zero; a layer where nothing goes is left alone, where that code
keeps nothing; `random` ranks places, once per layer and the same for every image, from the option
`seed`. Selections with `cls` need a class token; choose `image` elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options
from autotok.errors import IncompatibleMethod
from autotok.facts import BackboneFacts
from autotok.tokens import Extra, Needs, Taps, Tokens, grid_coords

from .base import Counts, Kind, Option, Site, Training
from .block_hooks import BlockHooks
from .primitives import diagonal, directions, falling, gather_rows, select
from .registry import register

GRAPH = "gtp.graph"
SELECTIONS = tuple(
    f"{who}_{over}" for who in ("mixed", "cls", "image", "diagonal") for over in ("max", "mean")
)
ABLATIONS = ("sum_max", "cosine_max", "cosine_mean", "random")


@register("gtp")
class GTP(BlockHooks):
    """Hands the features of dropped tokens on along a graph."""

    title = "GTP-ViT (WACV 2024)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    options = (
        Option(
            "selection",
            "mixed_max",
            "attention a patch is ranked by: the class token's, all rows', its own (diagonal), or"
            " the last two multiplied or added; greatest or mean over heads. cosine: how unlike its"
            " row is to the other patches' rows; random: by chance",
            choices=SELECTIONS,
            search=True,
            unsearched=ABLATIONS,
        ),
        Option(
            "graph",
            "mixed",
            "who is joined",
            choices=("mixed", "spatial", "semantic"),
            model_wide=True,
        ),
        Option(
            "num_neighbours",
            8,
            "most similar patches each one is joined to",
            low=1,
            high=64,
            model_wide=True,
        ),
        Option("alpha", 0.1, "share of a gone patch passed on", low=0.0, high=10.0, search=True),
        Option(
            "sparsity",
            1.0,
            "share of each attention map that stays",
            low=0.05,
            high=1.0,
            model_wide=True,
        ),
        Option("proportional", True, "add log size to the attention logits", model_wide=True),
        Option("seed", 0, "seed of selection random", low=0, high=2**31 - 1),
    )
    needs = Needs.ATTENTION
    lot: Tensor

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        if self.values["selection"] == "random":
            generator = np.random.default_rng([int(self.values["seed"]), site.layer])
            lot = torch.from_numpy(generator.permutation(site.num_entering))
            self.register_buffer("lot", lot, persistent=False)  # (n,)

    @classmethod
    def resolve_needs(cls, facts: BackboneFacts, options: Options) -> Needs:
        who = str(options["selection"]).split("_")[0]
        if who == "cls" and not facts.has_cls:
            raise IncompatibleMethod(
                f"option 'selection' of method '{cls.name}' is '{options['selection']}', which"
                f" needs a class token, and backbone '{facts.name}' has none; use 'mixed_max'"
            )
        plain = float(options["sparsity"]) == 1.0
        if who == "random":
            return Needs.NONE
        if who == "cls" and plain:
            return Needs.CLS_ATTENTION
        return Needs.COLUMN_MEANS if who == "image" else Needs.ATTENTION

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        width = facts.blocks[layer].width
        macs: Counts = keep * (entering - keep) * width  # propagation
        if str(options["selection"]).startswith("cosine"):
            macs = macs + entering * (entering + facts.num_prefix)
        return macs

    @classmethod
    def early_macs(
        cls, facts: BackboneFacts, layers: Sequence[int], counts: Counts, options: Options
    ) -> Counts:
        """Similarities of the graph, if a patch goes anywhere."""
        macs = 0 if options["graph"] == "spatial" else facts.num_patches**2 * facts.blocks[0].width
        return np.where((counts != facts.num_patches).any(axis=1), macs, 0)

    def before_blocks(self, tokens: Tokens, taps: Taps) -> Tokens:
        rule = dataclasses.replace(tokens.rule, sparsity=float(self.values["sparsity"]))
        tokens = dataclasses.replace(tokens, rule=rule)
        acts = self.acts(self.site.num_entering, self.site.num_keep, self.values)
        return self.joined(tokens) if acts else tokens  # idle layers look at no graph

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        order = falling(self._scores(taps, tokens))
        keep, gone = order[:, :num_keep], order[:, num_keep:]
        kept = select(tokens, keep)
        graph = gather_rows(tokens.extras[GRAPH].values, keep)
        share = gather_rows(graph, gone, axis=2) * float(self.values["alpha"])  # (B, k, p)
        gained = share @ gather_rows(tokens.patches, gone)
        size = kept.size
        if self.proportional_attention:
            moved = (share * tokens.sizes().gather(1, gone).unsqueeze(1)).sum(dim=-1)
            size = kept.sizes() + moved
        x = kept.x + F.pad(gained, (0, 0, tokens.num_prefix, 0))
        return dataclasses.replace(kept, x=x, size=size)

    def joined(self, tokens: Tokens) -> Tokens:
        """The tokens with their graph, built once, from how they enter block 0."""
        if GRAPH in tokens.extras:
            return tokens
        look = tokens.patches.detach()
        kind, rows = self.values["graph"], look.new_zeros(*look.shape[:2], look.shape[1])
        joined = rows.bool()
        if kind != "spatial":
            joined = joined | _alike(look, int(self.values["num_neighbours"]))
        if kind != "semantic":
            joined = joined | _touching(tokens.grid, look.device)
        edges = joined.to(look.dtype)
        scale = edges.sum(dim=-1).clamp_min(1.0).rsqrt()  # (B, n)
        graph = Extra(scale.unsqueeze(2) * edges * scale.unsqueeze(1), (1, 2))
        return dataclasses.replace(tokens, extras={**tokens.extras, GRAPH: graph})

    @torch.no_grad()
    def _scores(self, taps: Taps, tokens: Tokens) -> Tensor:
        prefix = tokens.num_prefix
        who, _, over = str(self.values["selection"]).partition("_")
        if who == "random":
            return self.lot.expand(tokens.x.shape[0], -1)
        if who == "cls":
            row = taps.attention[:, :, 0] if self.needs & Needs.ATTENTION else taps.cls_attention
            return _over_heads(row[:, :, prefix:], over)
        if who == "image":
            return _over_heads(taps.column_means[:, :, prefix:], over)
        if who == "cosine":
            rows = directions(_over_heads(taps.attention[:, :, prefix:], over))
            like = (rows @ rows.sum(dim=1).unsqueeze(-1)).squeeze(-1)  # (B, n)
            return -_but_for_rounding(like / like.shape[1])
        own = taps.attention.diagonal(dim1=-2, dim2=-1)[:, :, prefix:]  # (B, H, n)
        scores = _over_heads(own, over)
        if who == "diagonal":
            return scores
        received = _over_heads(taps.attention.sum(dim=2)[:, :, prefix:], over)
        return scores * received if who == "mixed" else scores + received


def _but_for_rounding(means: Tensor) -> Tensor:
    """Mean cosines (B, n) in steps larger than what they are off by: those of alike rows tie, and
    so do those of two patches, which are as unlike each other either way."""
    return means * 0.0 if means.shape[1] == 2 else (means.float() * 1e5).round()


def _over_heads(scores: Tensor, over: str) -> Tensor:
    return scores.amax(dim=1) if over == "max" else scores.mean(dim=1)


def _alike(look: Tensor, neighbours: int) -> Tensor:
    """(B, n, n) bool: each row's most similar patches by cosine, without itself; ties count."""
    unit = directions(look)
    itself = diagonal(look.shape[1], look.device)
    similarity = (unit @ unit.transpose(-2, -1)).masked_fill(itself, -2.0)
    least = similarity.topk(min(neighbours, look.shape[1]), dim=-1).values[..., -1:]
    return (similarity >= least) & ~itself


def _touching(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(1, n, n) bool: patches that share an edge or a corner on the grid."""
    place = grid_coords(grid, device=device)
    far = (place.unsqueeze(1) - place.unsqueeze(2)).abs().amax(dim=-1)
    return far == 1
