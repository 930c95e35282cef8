"""DiffRate: learn how much to prune and how much to merge in each block.

Chen, Shao, Xu, Wang, Zhang, Luo, Luo, Li, Chen, Qiao, "DiffRate: Differentiable Compression Rate
for Efficient Vision Transformers", ICCV 2023, arXiv 2305.17997; code OpenGVLab/DiffRate.

Between attention and MLP, patches are sorted by the attention the class token pays them. The last
ones are dropped; of the rest, those ranked after the first `num_keep` join the most similar of the
first (plain mean of features; sizes add up scaled by the similarity). In training each layer has a
probability over numbers to keep, one for pruning and one for merging; tokens stay and masks, hard
forwards and soft backwards, drop them, while a loss on the multiply-accumulates pulls the expected
numbers down. `emit` writes the learned numbers into the configuration.

Departures: layers are sorted only where something goes (order matters to nothing else); all prefix
tokens are protected; the class row may be replaced (option `score`); inference keeps sizes above 0,
where the authors' code can take the log of a negative one; training starts from and aims at the
configured counts unless told otherwise (options `start`, `target_gmacs`; the authors start uniform
and name a target), or trains the backbone under fixed counts (`train: weights`); the cost model
knows MLPs of any width. The authors freeze block 0; here that is leaving it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotok.config import CompressionConfig, Options, Reduction
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.tokens import AttentionRule, Extra, Needs, Taps, Tokens

from .base import Counts, Kind, Option, Site, TokenReducer, Training
from .learning import Learning, LossContext, TrainingRecipe
from .merging import merge_ordered
from .official_weights import OfficialWeights
from .primitives import directions, gather_rows, select
from .registry import register
from .scoring import SCORE, Scoring, attention_scores

KEPT = "diffrate.kept"


@register("diffrate")
class DiffRate(Scoring, OfficialWeights, Learning):
    """Prunes some and merges some, in numbers that can be learned."""

    title = "DiffRate (ICCV 2023)"
    kind = Kind.HYBRID
    training_need = Training.OPTIONAL
    options = (
        Option(
            "prune_share",
            0.5,
            "share of the removed that is pruned",
            low=0.0,
            high=1.0,
            search=True,
        ),
        Option(
            "num_pruned", -1, "how many of the removed are pruned; -1 is by prune_share", low=-1
        ),
        SCORE,
        Option(
            "train",
            "rates",
            "what training changes: the numbers, or the backbone under fixed numbers",
            choices=("rates", "weights"),
            model_wide=True,
        ),
        Option("granularity", 4, "step between the numbers to keep in training", low=1, high=1024),
        Option(
            "start",
            "counts",
            "what training starts from: rates that expect the configured counts, or uniform ones",
            choices=("counts", "uniform"),
        ),
        Option(
            "cost_weight",
            5.0,
            "weight of the cost term in training",
            low=0.0,
            high=1000.0,
            model_wide=True,
        ),
        Option(
            "target_gmacs",
            0.0,
            "cost aimed at in training, in 1e9 multiply-accumulates; 0 is that of the counts",
            low=0.0,
            high=1e6,
            model_wide=True,
        ),
    )
    official_by_block = True
    needs = Needs.CLS_ATTENTION
    proportional_attention = True
    recipe = TrainingRecipe(
        reducer_lr=100.0,
        backbone_lr=0.0,
        reducer_decay=0.0,
        losses={"ce": 1.0},
        source="OpenGVLab/DiffRate: rates only, AdamW, lr 0.01 to 0.001, 3 epochs",
    )

    when_chosen = MappingProxyType({"train": "weights"})

    @classmethod
    def recipe_for(cls, options: Options) -> TrainingRecipe:
        return cls.recipe if options["train"] == "rates" else TrainingRecipe()

    official_names = ((r"blocks\.(\d+)\.(\w+_)ddp\.selected_probability", r"\2logits"),)

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        removed, pruned = site.num_entering - site.num_keep, int(self.values["num_pruned"])
        if pruned > removed:
            raise ConfigError(
                f"option 'num_pruned' of method 'diffrate' is {pruned}, but layer {site.layer}"
                f" removes {removed} patch tokens; give at most that, or -1"
            )
        candidates = torch.tensor(_candidates(site.facts, self.values))
        fixed = int(self.values["num_pruned"])
        pruned = fixed if fixed >= 0 else int(_share(removed, self.values))
        tilt = 1.0 if self.values["start"] == "counts" else 0.0
        self.prune_logits = nn.Parameter(tilt * _expecting(candidates, site.num_entering - pruned))
        self.merge_logits = nn.Parameter(tilt * _expecting(candidates, site.num_keep))

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        merged = np.maximum(entering - keep - _num_pruned(entering - keep, options), 0)
        macs: Counts = merged * keep * facts.blocks[layer].width  # similarities
        return macs

    # --- inference: fixed counts

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        scores = attention_scores(taps, self.needs, tokens.num_prefix)  # (B, n)
        order = scores.argsort(dim=-1, descending=True)
        if self.training and self.values["train"] == "rates":
            return self._mask(select(tokens, order), num_keep)
        removed = tokens.num_patches - num_keep
        fixed = int(self.values["num_pruned"])
        pruned = fixed if fixed >= 0 else int(_share(removed, self.values))
        keep, gone = order[:, :num_keep], order[:, num_keep : tokens.num_patches - pruned]
        if gone.shape[1] == 0:
            return select(tokens, keep)
        target, likeness = _nearest(tokens.patches, keep, gone)
        plain = dataclasses.replace(tokens, size=None)
        order = order[:, : num_keep + gone.shape[1]]
        out = merge_ordered(plain, order, target, track_size=False)
        sizes = tokens.sizes()
        size = sizes.gather(1, keep).scatter_add(1, target, sizes.gather(1, gone) * likeness)
        return dataclasses.replace(out, size=size.clamp_min(1e-6))

    # --- training: masks, and rates with gradients

    def _mask(self, tokens: Tokens, num_keep: int) -> Tokens:
        """Tokens, sorted, with those that go masked out."""
        mask = tokens.x.new_ones(tokens.sizes().shape) if tokens.mask is None else tokens.mask
        alive = int(mask[0].detach().sum().round())
        pruned, merged = self.kept(self.prune_logits), self.kept(self.merge_logits)
        fixed = [torch.full_like(pruned, number) for number in (num_keep, self.site.layer)]
        noted = torch.stack([pruned, merged, *fixed])
        between = min(alive, int(pruned.detach()))
        if between < alive:
            mask = mask * self._rank_mask(self.prune_logits, between, alive)
        final = min(between, int(merged.detach()))
        if final < between:
            tokens = _folded(tokens, final, between)
            mask = mask * self._rank_mask(self.merge_logits, final, between)
        extras = {**tokens.extras, KEPT: _appended(tokens, noted)}
        return dataclasses.replace(tokens, mask=mask, rule=AttentionRule(), extras=extras)

    def kept(self, logits: Tensor) -> Tensor:
        """Expected number of patches to keep, rounded up, with the gradient of the unrounded."""
        candidates = logits.new_tensor(_candidates(self.site.facts, self.values))
        expected = (candidates * logits.softmax(dim=-1)).sum()
        return expected + (expected.ceil() - expected).detach()

    def _rank_mask(self, logits: Tensor, first: int, last: int) -> Tensor:
        """(n,), 0 for ranks from `first` up to `last`, else 1; gradient of the keep probability."""
        candidates = logits.new_tensor(_candidates(self.site.facts, self.values))
        ranks = torch.arange(self.site.facts.num_patches, device=logits.device)
        inside = (ranks.unsqueeze(1) < candidates).to(logits.dtype)  # (n, candidates)
        soft = (inside * logits.softmax(dim=-1)).sum(dim=-1)
        hard = 1.0 - ((ranks >= first) & (ranks < last)).to(logits.dtype)
        return hard + (soft - soft.detach())

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """Squared distance of the cost from its target, once per model."""
        if not self.site.is_last or KEPT not in context.tokens.extras:
            return None
        rows = context.tokens.extras[KEPT].values[0]  # (layers, 4)
        layers = [int(layer) for layer in rows[:, 3]]
        target = float(self.values["target_gmacs"])
        if target == 0.0:
            target = float(self.macs(layers, rows[:, 2:3].detach())) / 1e9
        distance = self.macs(layers, rows[:, :2]) / 1e9 - target
        return float(self.values["cost_weight"]) * distance**2

    def macs(self, layers: Sequence[int], kept: Tensor) -> Tensor:
        """The model's cost where `layers` keep `kept` (layers, k), the least of a row."""
        facts = self.site.facts
        rows = dict(zip(layers, kept, strict=True))
        count = kept.new_tensor(float(facts.num_patches))
        fixed = facts.stem_macs + facts.readout_macs + sum(b.fixed_macs for b in facts.blocks)
        total = kept.new_tensor(float(fixed))
        for layer, block in enumerate(facts.blocks):
            length = count + facts.num_prefix
            inner = block.inner_width
            total = total + 4 * length * block.width * inner + 2 * length**2 * inner
            if layer in rows:
                count = _least(count, rows[layer])
            mlp = block.mlp_matrices * block.width * block.hidden
            total = total + (count + facts.num_prefix) * mlp
        return total

    @classmethod
    def emit(
        cls, reducers: Mapping[int, TokenReducer], config: CompressionConfig
    ) -> CompressionConfig:
        """The configuration with the learned numbers; layers where nothing goes are left out."""
        old = {reduction.layer: dict(reduction.options) for reduction in config.reductions}
        reductions: list[Reduction] = []
        alive = None
        for layer, reducer in sorted(reducers.items()):
            assert isinstance(reducer, cls)
            alive = reducer.site.facts.num_patches if alive is None else alive
            pruned, merged = reducer.learned()
            between = min(alive, pruned)
            final = min(between, merged)
            if final < alive:
                options = {**old.get(layer, {}), "num_pruned": alive - between}
                reductions.append(Reduction(layer, num_keep=final, options=options))
            alive = final
        return dataclasses.replace(config, reductions=tuple(reductions))

    def learned(self) -> tuple[int, int]:
        """Patches to keep after pruning and after merging, as the rates say or last said."""
        if self.prune_logits is not None:
            pruned, merged = self.kept(self.prune_logits), self.kept(self.merge_logits)
            self._learned = int(pruned.detach()), int(merged.detach())
        return self._learned

    def deploy(self) -> None:
        """Drop the rates; what they said stays for `emit`."""
        self.learned()
        for name in ("prune_logits", "merge_logits"):
            self.register_parameter(name, None)


def _candidates(facts: BackboneFacts, options: Options) -> list[float]:
    """The numbers of patches a layer may keep, falling."""
    return [float(n) for n in range(facts.num_patches, 0, -int(options["granularity"]))]


def _expecting(candidates: Tensor, count: int) -> Tensor:
    """Logits over `candidates` (k,), linear in them, whose expected number is about `count`."""
    scaled = (candidates / candidates[0]).double()
    wanted = (count - 0.5) / float(candidates[0])  # numbers are rounded up
    low, high = -1e4, 1e4
    # halvings: more than the 53 bits of a double
    for _ in range(60):
        slope = (low + high) / 2
        expected = float((scaled * (slope * scaled).softmax(dim=0)).sum())
        low, high = (slope, high) if expected < wanted else (low, slope)
    logits = slope * (scaled - scaled.mean())
    return logits.to(candidates.dtype)


def _num_pruned(removed: Counts, options: Options) -> Counts:
    """How many of the removed are pruned; the others merge."""
    fixed = int(options["num_pruned"])
    if fixed >= 0:
        return np.full_like(removed, fixed)
    share: Counts = _share(removed, options).astype(np.int64)
    return share


def _share(removed: Any, options: Options) -> Any:
    """The share that is pruned, of one number (no array: torch.compile) or of an array of them."""
    return (float(options["prune_share"]) * removed + 0.5) // 1


@torch.no_grad()
def _nearest(patches: Tensor, keep: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """For each gone patch (B, r): the position in `keep` most similar to it, and the cosine."""
    unit = directions(patches)
    similarity = gather_rows(unit, gone) @ gather_rows(unit, keep).transpose(-2, -1)
    likeness, target = similarity.max(dim=-1)
    return target, likeness.to(patches.dtype)  # bfloat16 under autocast


def _folded(tokens: Tokens, final: int, between: int) -> Tokens:
    """Patches `final` to `between` folded into the first ones; all stay where they are."""
    batch, count = tokens.sizes().shape
    ranks = torch.arange(count, device=tokens.x.device).expand(batch, -1)
    target, likeness = _nearest(tokens.patches, ranks[:, :final], ranks[:, final:between])
    patches = tokens.patches
    index = target.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
    total = patches[:, :final].scatter_add(1, index, patches[:, final:between])
    number = torch.ones_like(patches[:, :final, 0])
    number = number.scatter_add(1, target, torch.ones_like(likeness))
    x = torch.cat([tokens.prefix, total / number.unsqueeze(-1), patches[:, final:]], dim=1)
    sizes = tokens.sizes()
    shrunk = (sizes[:, final:between] * likeness).clamp_min(1.0)
    grown = sizes[:, :final].clamp_min(1.0).scatter_add(1, target, shrunk)
    size = torch.cat([grown, shrunk, sizes[:, between:]], dim=1)
    return dataclasses.replace(tokens, x=x, size=size)


def _appended(tokens: Tokens, row: Tensor) -> Extra:
    """What every layer so far meant to keep, (B, layers, 4), with one row more."""
    rows = row.expand(tokens.x.shape[0], 1, -1)
    if KEPT in tokens.extras:
        rows = torch.cat([tokens.extras[KEPT].values, rows], dim=1)
    return Extra(rows, ())


def _least(count: Tensor, kept: Tensor) -> Tensor:
    """The smallest of them all; every entry of `kept` gets its gradient, `count` none."""
    least = torch.minimum(count.detach(), kept.detach().min())
    return least + (kept - kept.detach()).sum()
