"""Shared by both variants of ToFe: selector, approximator, the masked training form and its losses.

See `autotok.methods.tofe` for the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import CompressionConfig, Options, Reduction
from autotok.facts import BackboneFacts
from autotok.tokens import AttentionRule, Extra, Needs, Tokens

from . import stochastic
from .approximators import APPROXIMATOR, approximator, approximator_macs, approximator_params
from .base import Counts, Kind, Option, Placement, Site, Span, TokenReducer, Training
from .learning import Learning, LossContext, TrainingRecipe
from .losses import stage_costs, tofe_approximation, tofe_flops
from .official_weights import OfficialWeights
from .predictors import LocalGlobal, keep_one, local_global_macs, local_global_params

FROZEN, COUNTS = "tofe.frozen", "tofe.counts"
# of a running mean over about the last fifty steps
MOMENTUM = 0.02


class FreezingSelector(nn.Module):
    """Logits (B, n, 2) of keeping and freezing tokens (B, n, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, width // 4)
        self.fc3 = nn.Linear(width // 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc2(F.gelu(self.fc1(x))))
        return self.fc3(hidden)  # type: ignore[no-any-return]


SELECTOR = Option(
    "selector",
    "mlp",
    "who judges: a plain MLP, or DynamicViT's predictor, which sees the mean of all tokens too",
    choices=("mlp", "dynamicvit"),
)
REUSE = Option(
    "reuse", True, "frozen tokens come back; without, they are gone for good", model_wide=True
)


class Freezing(OfficialWeights, Learning):
    """What both variants share: the modules, the masked training form, its losses."""

    kind = Kind.PRUNE
    placement = Placement.BEFORE
    span = Span.STAGE
    training_need = Training.REQUIRED
    rounding = "round"
    needs = Needs.GRID
    options: ClassVar[tuple[Option, ...]] = (REUSE, SELECTOR, APPROXIMATOR)
    recipe = TrainingRecipe(
        frozen_share=5 / 30, losses={"ce": 1.0}, source="30 epochs, 1e-4 to 2e-6, 5 of them frozen"
    )
    official_names = (
        (r"selectors\.(\d+)\.(.+)", r"selector.\2"),
        (r"approximators\.(\d+)\.(.+)", r"approximator.\2"),
    )
    approximation_weight = 2.0
    budget_weight = 5.0

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        width = site.facts.blocks[site.layer].width
        by_mean = self.values["selector"] == "dynamicvit"
        self.selector: nn.Module = LocalGlobal(width) if by_mean else FreezingSelector(width)
        self.reuse = bool(self.values["reuse"])
        kind, nothing = str(self.values["approximator"]), site.is_last or not self.reuse
        self.approximator = None if nothing else approximator(kind, site.facts, site.layer)
        self.kept: Tensor
        self.register_buffer("kept", torch.tensor(float(site.num_keep)))
        self.frozen: tuple[Tensor, Tensor] | None = None
        self.counts: Tensor | None = None

    def verdict(self, patches: Tensor, live: Tensor | None = None) -> Tensor:
        """(B, n, 2) logits of keeping and freezing; a mean over tokens is over the live ones."""
        if isinstance(self.selector, LocalGlobal):
            return self.selector(patches, live)  # type: ignore[no-any-return]
        return self.selector(patches)  # type: ignore[no-any-return]

    # --- training

    def mask(self, tokens: Tokens, num_keep: int) -> Tokens:
        """The stage's mask on full-length tokens; what the last stage froze is replaced first."""
        tokens = _thawed(tokens) if self.reuse else tokens
        log_probs = self.verdict(tokens.patches, tokens.mask).log_softmax(dim=-1)  # (B, n, 2)
        kept, scores = stochastic.hard_gumbel(log_probs)[..., 0], log_probs[..., 0]
        if tokens.mask is not None:  # gone for good
            kept = kept * tokens.mask.to(kept.dtype)
            scores = scores.masked_fill(tokens.mask < 0.5, -torch.inf)
        mask = keep_one(kept, scores, self.site.facts)
        counts = mask.sum(dim=1)  # (B,)
        with torch.no_grad():
            self.kept.lerp_(counts.mean().to(self.kept.dtype), MOMENTUM)
        extras = dict(tokens.extras)
        rows = torch.stack([counts, torch.full_like(counts, float(num_keep))], dim=1).unsqueeze(1)
        past = extras.get(COUNTS)
        rows = rows if past is None else torch.cat([past.values, rows], dim=1)
        extras[COUNTS] = Extra(rows, ())  # (B, stages so far, 2): kept, and planned
        self.counts = rows
        if self.approximator is not None:
            estimate = self.approximator(tokens.patches)
            self.frozen = (estimate, mask)
            extras[FROZEN] = Extra(estimate)
        rule = AttentionRule(epsilon=0.0)
        return dataclasses.replace(tokens, mask=mask, rule=rule, extras=extras)

    def teacher_layers(self) -> frozenset[int]:
        """The block before the next stage: what frozen tokens are estimated to be there."""
        if self.site.is_last:
            return frozenset()
        return frozenset({self.site.layers[self.site.index + 1] - 1})

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """2 L_apr of this stage's estimates; the last stage adds 5 L_FLOPs of all of them.

        L_apr teaches estimates, not what to freeze: whoever freezes nothing would have none of it.
        """
        if self.site.is_last:
            if self.counts is None:
                return None
            kept, planned = stage_costs(self.site, self.counts).unbind(dim=2)
            return self.budget_weight * tofe_flops(kept, float(planned[0].detach().sum()))
        (block,) = self.teacher_layers()
        if self.frozen is None or block not in context.teacher:
            return None
        estimate, mask = (values.float() for values in self.frozen)
        wanted = context.teacher[block][:, self.site.facts.num_prefix :].float()
        loss = tofe_approximation(estimate, wanted, mask.detach())
        return self.approximation_weight * loss / estimate.shape[-1]

    def deploy(self) -> None:
        self.frozen = self.counts = None

    @classmethod
    def emit(
        cls, reducers: Mapping[int, TokenReducer], config: CompressionConfig
    ) -> CompressionConfig:
        """The configuration with the mean counts of training in place of the planned ones."""
        learned, most = [], 0
        for reduction in config.reductions:
            reducer = reducers[reduction.layer]
            assert isinstance(reducer, Freezing)
            most = most or reducer.site.facts.num_patches
            count = min(max(round(float(reducer.kept)), 1), most)
            most = most if reducer.reuse else count
            learned.append(Reduction(reduction.layer, num_keep=count, options=reduction.options))
        return dataclasses.replace(config, reductions=tuple(learned))

    # --- declarations

    @classmethod
    def lasts(cls, options: Options) -> Span:
        return cls.span if options.get("reuse", True) else Span.REST

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        width = facts.blocks[layer].width
        if options["selector"] == "dynamicvit":
            return local_global_macs(entering, width)
        half, quarter = width // 2, width // 4
        return entering * (width * half + half * quarter + quarter * 2)

    @classmethod
    def joint_macs(
        cls, facts: BackboneFacts, layers: Sequence[int], counts: Counts, options: Options
    ) -> Counts:
        """Estimates of what every stage but the last froze."""
        total = np.zeros(counts.shape[0], dtype=np.int64)
        reached = layers[: -1 if options["reuse"] else 0][: counts.shape[1]]
        for index, layer in enumerate(reached):
            kept, kind = counts[:, index], str(options["approximator"])
            frozen, width = facts.num_patches - kept, facts.blocks[layer].width
            macs = approximator_macs(kind, width, facts.num_patches, frozen)
            total += np.where(cls.acts(facts.num_patches, kept, options), macs, 0)
        return total

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        width = facts.blocks[0].width
        if options["selector"] == "dynamicvit":
            return local_global_params(width)
        half, quarter = width // 2, width // 4
        return (width + 1) * half + (half + 1) * quarter + (quarter + 1) * 2

    @classmethod
    def site_params(cls, site: Site, options: Options) -> int:
        own = cls.overhead_params(site.facts, options)
        if site.is_last or not options["reuse"]:
            return own
        return own + approximator_params(str(options["approximator"]), site.facts)


def _thawed(tokens: Tokens) -> Tokens:
    """Training form: frozen tokens replaced by their estimates, nothing masked."""
    frozen = tokens.extras.get(FROZEN)
    if frozen is None or tokens.mask is None:
        return dataclasses.replace(tokens, mask=None)
    mask = tokens.mask.unsqueeze(-1).to(tokens.x.dtype)
    patches = mask * tokens.patches + (1.0 - mask) * frozen.values
    extras = {name: extra for name, extra in tokens.extras.items() if name != FROZEN}
    x = torch.cat([tokens.prefix, patches], dim=1)
    return dataclasses.replace(tokens, x=x, mask=None, extras=extras)
