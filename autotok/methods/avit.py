"""A-ViT: every token stops where it has been heard enough; the result is a mean over depth.

Yin, Vahdat, Alvarez, Mallya, Kautz, Molchanov, "A-ViT: Adaptive Tokens for Efficient Vision
Transformer", CVPR 2022, arXiv 2112.07658; code NVlabs/A-ViT.

Behind every block from its layer on, channel 0 of a token gives its halting score, sigmoid(scale *
channel - threshold), 1 behind the last block. Scores add up; at 1 - epsilon the token halts and is
gone from later blocks. What reaches the read-out is each token's mean over the blocks it saw, the
scores being the weights, so a model that was not trained for it changes even where nothing halts.
In training masks stand for removal, and the loss counts blocks seen (the ponder cost) and holds the
mean scores per block to a bell curve two thirds deep.

Departures: halted tokens are really removed. Where the read-out takes prefix tokens only and these
have halted, the image is finished and its patches go too; prefix tokens that halted otherwise stay
visible to the others (the authors mask them). `num_keep` is the mean number of patches in the
blocks after the layer; calibration looks for the threshold on one pass in which nothing halts.
Score means run over all images of a forward (on a CPU, of each chunk of a batch: about 2,600
tokens), where the authors' code drops the first one; the divergence is summed over blocks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.config import Options, Primitive
from autotok.facts import BackboneFacts
from autotok.tokens import AttentionRule, Extra, Taps, Tokens, grid_coords

from .base import Count, Counts, Kind, Option, Placement, Site, Training
from .block_hooks import BlockHooks
from .learning import Learning, LossContext, TrainingRecipe
from .occupancy import Occupancy
from .primitives import select_ragged
from .registry import register
from .thresholds import Calibrated

PLACE = "avit.place"
READ = {"cls": 1, "cls+dist": 2}
"""Prefix tokens that the read-out takes, where it takes nothing else."""


@dataclass(frozen=True)
class Halting:
    """The state of all tokens of all images, live or not; prefix tokens first, (B, N)."""

    output: Tensor  # (B, N, C), weighted sum of features so far
    score: Tensor  # sum of halting scores so far
    rest: Tensor  # weight left
    ponder: Tensor  # blocks seen, and the rest at halting

    @staticmethod
    def of(tokens: Tokens) -> Halting:
        """The state that travels with the tokens, or the one at the start."""
        if PLACE in tokens.extras:
            return Halting(*(tokens.extras[f"avit.{f.name}"].values for f in _FIELDS))
        x = tokens.x
        wide = torch.promote_types(x.dtype, torch.float32)
        zeros = torch.zeros_like(x[..., 0], dtype=wide)
        return Halting(torch.zeros_like(x), zeros, torch.ones_like(zeros), zeros)

    def extras(self, place: Tensor) -> dict[str, Extra]:
        """This state as fields of tokens whose patches came from `place` (B, n)."""
        own = {f"avit.{f.name}": Extra(getattr(self, f.name), ()) for f in _FIELDS}
        return {**own, PLACE: Extra(place)}


_FIELDS = dataclasses.fields(Halting)


@register("avit")
class AViT(BlockHooks, Learning, Calibrated):
    """Halts tokens one by one; the class token reads out its mean over depth."""

    title = "A-ViT (CVPR 2022)"
    kind = Kind.PRUNE
    placement = Placement.AFTER
    training_need = Training.REQUIRED
    count = Count.ADAPTIVE
    single_layer = True
    calibrates = "threshold"
    exportable = False
    options = (
        Option("scale", 10.0, "gain on channel 0 (gamma)", low=0.0, high=1000.0),
        Option(
            "threshold",
            30.0,
            "what the gained channel is compared with (beta); published 30 (DeiT-T), 75 (DeiT-S)",
            low=-10000.0,
            high=10000.0,
        ),
        Option("epsilon", 0.01, "a token halts at scores of 1 - epsilon", low=0.0001, high=0.5),
        Option("ponder_weight", 5e-4, "weight of the blocks seen", low=0.0, high=10.0),
        Option("prior_weight", 1e-3, "weight of the bell curve", low=0.0, high=10.0),
    )
    recipe = TrainingRecipe(
        losses={"ce": 1.0}, source="NVlabs/A-ViT: 100 epochs from DeiT, 5e-4 (T) or 3e-4 (S)"
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.threshold = float(self.values["threshold"])
        self.limit = 1.0 - float(self.values["epsilon"])
        self.channels: list[Tensor] = []  # calibration: channel 0 behind each block
        self.means: list[Tensor] = []  # training: mean score of each block
        self.ponder: Tensor | None = None

    @classmethod
    def occupancy(
        cls, layers: Sequence[int], counts: Counts, facts: BackboneFacts, options: Options
    ) -> Occupancy:
        found = super().occupancy(layers, counts, facts, options)
        if not layers:
            return found
        full = found.readout * 0 + facts.num_patches
        return dataclasses.replace(found, readout=full)

    def before_blocks(self, tokens: Tokens, taps: Taps) -> Tokens:
        self.channels, self.means = [], []
        return dataclasses.replace(tokens, rule=AttentionRule(epsilon=0.0))

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        return self._step(self.site.layer, tokens)

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        return self._step(layer, tokens) if layer > self.site.layer else tokens

    def _step(self, layer: int, tokens: Tokens) -> Tokens:
        """One block's scores added up, and who halted taken out."""
        last = layer == self.site.facts.num_blocks - 1
        prefix, state = tokens.num_prefix, Halting.of(tokens)
        place = _places(tokens)
        rows = F.pad(place + prefix, (prefix, 0))
        rows[:, :prefix] = torch.arange(prefix, device=rows.device)
        here = state.score.gather(1, rows) < self.limit
        if tokens.live is not None:
            here = here & F.pad(tokens.live, (prefix, 0), value=True)
        channel = tokens.x[..., 0].to(state.score.dtype)
        logits = float(self.values["scale"]) * channel - self.threshold
        fresh = torch.ones_like(logits) if last else logits.sigmoid()
        state, going = self._added(state, rows, here, fresh, tokens.x)
        if self.calibrating and not last:
            self.channels.append(channel)
            going = torch.ones_like(going)
            state = dataclasses.replace(state, score=torch.zeros_like(state.score))
        if self.training:
            self.means.append((fresh * here).mean())
            self.ponder = state.ponder
        extras = {**tokens.extras, **state.extras(place)}
        return self._without(dataclasses.replace(tokens, extras=extras), going, last)

    def _added(
        self, state: Halting, rows: Tensor, here: Tensor, fresh: Tensor, x: Tensor
    ) -> tuple[Halting, Tensor]:
        """The state after scores `fresh`, and who goes on; all (B, tokens) but `x`."""
        there = here.to(fresh.dtype)
        going = here & (state.score.gather(1, rows) + fresh < self.limit)
        stays, halts = going.to(fresh.dtype), (here & ~going).to(fresh.dtype)
        rest = state.rest.gather(1, rows)
        weight = (stays * fresh + halts * rest).to(x.dtype).unsqueeze(-1)
        added = Halting(
            output=state.output.scatter_add(1, rows.unsqueeze(-1).expand_as(x), x * weight),
            score=state.score.scatter_add(1, rows, fresh * there),
            rest=state.rest.scatter_add(1, rows, -fresh * stays),
            ponder=state.ponder.scatter_add(1, rows, there + rest * halts),
        )
        return added, going

    def _without(self, tokens: Tokens, going: Tensor, last: bool) -> Tokens:
        """The tokens without those that do not go on (B, P + n): masked in training, else gone."""
        prefix = tokens.num_prefix
        keep = going[:, prefix:]
        if self.training:
            return dataclasses.replace(tokens, mask=keep.to(tokens.x.dtype))
        if last:
            return tokens
        read = READ.get(self.site.facts.pooling, 0)
        if read:
            keep = keep & going[:, :read].any(dim=1, keepdim=True)
        if prefix == 0:  # a block needs something to run on: the first one, which has halted
            first = torch.arange(keep.shape[1], device=keep.device) == 0
            keep = keep | (first & ~keep.any(dim=1, keepdim=True))
        return select_ragged(tokens, keep, nominal=self.site.num_keep)

    def finish(self, tokens: Tokens) -> Tokens:
        """All tokens back in raster order, as their means over depth."""
        if self.calibrating and self.channels:
            self.threshold = self._fitting_threshold(torch.stack(self.channels))
        state, count = Halting.of(tokens), self.site.facts.num_patches
        coords = source = None
        if tokens.coords is not None:
            own = grid_coords(tokens.grid, device=tokens.x.device)
            coords = own.expand(tokens.x.shape[0], -1, -1)
        if tokens.source is not None:  # drawings show who ran to the end
            where = _places(tokens).unsqueeze(-1).expand_as(tokens.source)
            held = tokens.source.to(torch.uint8)
            empty = held.new_zeros(held.shape[0], count, held.shape[2])
            source = empty.scatter_add(1, where, held) > 0
        return dataclasses.replace(
            tokens,
            x=state.output,
            raster=True,
            coords=coords,
            source=source,
            live=None,
            mask=None,
            size=None,
            extras={},
        )

    # --- calibration and training

    def _fitting_threshold(self, channels: Tensor) -> float:
        """The threshold at which `num_keep` patches are live on average; channels (L, B, N)."""
        gained = float(self.values["scale"]) * channels
        low, high = float(gained.min()) - 20.0, float(gained.max()) + 20.0
        for _ in range(60):
            middle = (low + high) / 2.0
            live = (gained - middle).sigmoid().cumsum(dim=0) < self.limit  # (L, B, N)
            patches = live[:, :, self.site.facts.num_prefix :]
            read = READ.get(self.site.facts.pooling, 0)
            if read:
                patches = patches & live[:, :, :read].any(dim=2, keepdim=True)
            enough = float(patches.sum(dim=2).double().mean()) >= self.site.num_keep
            low, high = (low, middle) if enough else (middle, high)
        return high

    def calibrated(self) -> dict[str, Primitive]:
        return {"threshold": self.threshold}

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """Ponder cost, and divergence of the scores per block from the bell curve."""
        if self.ponder is None or not self.means:
            return None
        scores = torch.stack(self.means).float()
        # clamped as the authors' code does, like the prior
        scores = (scores / scores.sum()).clamp(0.01, 0.99)
        wanted = _prior(self.site.facts.num_blocks)[-len(self.means) :].to(scores.device)
        divergence = F.kl_div(scores.log(), wanted, reduction="sum")
        ponder = float(self.values["ponder_weight"]) * self.ponder.float().mean()
        return ponder + float(self.values["prior_weight"]) * divergence

    def deploy(self) -> None:
        self.ponder, self.means, self.channels = None, [], []


def _places(tokens: Tokens) -> Tensor:
    """(B, n) int64: raster positions of the patches."""
    if PLACE in tokens.extras:
        return tokens.extras[PLACE].values
    line = torch.arange(tokens.num_patches, device=tokens.x.device)
    return line.expand(tokens.x.shape[0], -1)


def _prior(num_blocks: int) -> Tensor:
    """(L,): a bell of width 1 at two thirds of the depth, 0.98 of it before there."""
    mean = 2 * num_blocks / 3
    bell = torch.tensor([math.exp(-0.5 * (block - mean) ** 2) for block in range(num_blocks)])
    before = bell[: max(1, math.ceil(mean))].sum()
    # all three figures are the authors'
    return (0.98 * bell / before).clamp(0.01, 0.99)
