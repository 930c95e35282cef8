"""SPViT: drop tokens softly, leaving one package token per stage.

Kong, Dong, Ma, Meng, Niu, Sun, Shen, Yuan, Ren, Tang, Qin, Wang, "SPViT: Enabling Faster Vision
Transformers via Latency-Aware Soft Token Pruning", ECCV 2022, arXiv 2112.13890; code
PeiyanFlying/SPViT.

In front of a stage each head's share of the channels is judged by one small predictor (as
DynamicViT's, shared by all heads), and the verdicts are averaged under weights that a second small
MLP gives each head. Tokens more likely to go than to stay are dropped; the sum of what is dropped
at this stage, each token times its probability of staying, is appended as a package token, which
always stays and helps to judge at later stages. Counts differ from image to image.

Departures: all prefix tokens are protected. Follows the masked forward of the released training
code, whose inference file draws noise and takes a patch token for the package. The share kept
counts package tokens, as budgets do, and is compared with the configured count over the initial
tokens (the released script has fixed ratios). `threshold` moves the decision, 0 is the argmax.
A fine-tune on a CPU takes a batch in chunks (of about 2,600 tokens), and each chunk's mean share is
held to the ratio, as is each process's part of one. Where the heads do not divide the width, the
largest smaller number of groups that does is taken. A package stands at the place of the best token
it holds.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Extra, Taps, Tokens

from . import stochastic
from .base import Count, Counts, Kind, Option, Placement, Site, Training
from .learning import Learning, LossContext, TrainingRecipe
from .official_weights import OfficialWeights
from .predictors import LocalGlobal, local_global_macs, local_global_params, threshold_for
from .primitives import above_zero, gather_rows, select_ragged, start_layers
from .registry import register
from .thresholds import Calibrated

PACKAGE = "spvit.package"


def num_groups(width: int, heads: int) -> int:
    """The largest number of groups up to the heads that divides the width."""
    return max(groups for groups in range(1, heads + 1) if width % groups == 0)


class PackagingSelector(nn.Module):
    """(log-score, probability) of keeping and dropping tokens (B, n, C), (B, n, 2) each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.groups = num_groups(width, heads)
        self.shared = LocalGlobal(width // self.groups)
        hidden = max(1, self.groups // 2)
        self.senet = nn.Sequential(
            nn.Linear(self.groups, hidden), nn.GELU(), nn.Linear(hidden, self.groups), nn.Sigmoid()
        )
        start_layers(self.senet)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """`mask` (B, n) says which tokens are live."""
        heads = x.unflatten(-1, (self.groups, -1))  # (B, n, H, d)
        live = None if mask is None else mask.unsqueeze(1)
        verdicts = self.shared(heads.transpose(1, 2), live).transpose(1, 2)  # (B, n, H, 2)
        weights = self.senet(heads.mean(dim=-1)).unsqueeze(-1)  # (B, n, H, 1)
        weights = weights / weights.sum(dim=2, keepdim=True)
        return (weights * verdicts).sum(dim=2), (weights * verdicts.exp()).sum(dim=2)


@register("spvit")
class SPViT(OfficialWeights, Learning, Calibrated):
    """Keeps the tokens that a predictor per head would rather keep, and a package of the rest."""

    title = "SPViT (ECCV 2022)"
    kind = Kind.HYBRID
    placement = Placement.BEFORE
    training_need = Training.REQUIRED
    count = Count.ADAPTIVE
    calibrates = "threshold"
    exportable = False
    options = (
        Option(
            "threshold", 0.0, "log-odds of staying above which a token is kept", low=-1e4, high=1e4
        ),
    )
    recipe = TrainingRecipe(
        backbone_lr=0.01,
        frozen_share=5 / 30,
        losses={"ce": 1.0, "soft": 0.5, "tokens": 0.5},
        source="30 epochs, predictors at 5e-4 x batch / 512, backbone at a hundredth of it after 5"
        " frozen epochs",
    )
    normalise_package = False
    ratio_weight = 2.0

    # one predictor per head, all of them the same object: the first is read
    official_names = (
        (r"score_predictor\.(\d+)\.senet\.(.+)", r"selector.senet.\2"),
        (r"score_predictor\.(\d+)\.((?:in|out)_conv)\.0\.(.*)", r"selector.shared.\2.\3"),
    )

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        block = site.facts.blocks[site.layer]
        self.selector = PackagingSelector(block.width, block.heads)
        self.decision: Tensor | None = None

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        package = _packages(tokens)
        present = tokens.mask if tokens.mask is not None else tokens.live
        log_score, soft = self.selector(tokens.patches, present)
        if self.training:
            return self._mask(tokens, package, log_score, soft)
        gap = log_score[..., 0] - log_score[..., 1]  # (B, n)
        if self.calibrating:
            live = torch.ones_like(package) if tokens.live is None else tokens.live
            packages = int((package & live).sum(dim=1).max()) + 1
            free = num_keep - packages
            self.values["threshold"] = threshold_for(gap, live & ~package, free)
        keep = (gap > float(self.values["threshold"])) | package
        gone = ~keep
        if tokens.live is not None:
            keep, gone = keep & tokens.live, gone & tokens.live
        longer = self._with_package(tokens, package, gone.to(soft.dtype), soft[..., 0])
        return select_ragged(longer, F.pad(keep, (0, 1), value=True), nominal=num_keep)

    def _mask(self, tokens: Tokens, package: Tensor, log_score: Tensor, soft: Tensor) -> Tokens:
        """Training form: the mask says who is left, and the package joins a full-length row."""
        before = tokens.mask
        if before is None:
            before = torch.ones_like(log_score[..., 0])
        sample = stochastic.hard_gumbel(log_score)[..., 0]
        after = torch.where(package, before, sample * before)
        longer = self._with_package(tokens, package, before - after, soft[..., 0])
        self.decision = F.pad(after, (0, 1), value=1.0)
        return dataclasses.replace(longer, mask=self.decision)

    def _with_package(
        self, tokens: Tokens, package: Tensor, gone: Tensor, staying: Tensor
    ) -> Tokens:
        """The tokens and a last one: the sum of those `gone` (B, n) times `staying` (B, n)."""
        weights = gone * staying
        if self.normalise_package:
            total = weights.sum(dim=1, keepdim=True)
            weights = weights / total.clamp_min(above_zero(1e-8, total))
        token = weights.unsqueeze(1) @ tokens.patches  # (B, 1, C)
        best = staying.detach().masked_fill(gone < 0.5, -1.0).argmax(dim=1, keepdim=True)
        source = None
        if tokens.source is not None:
            held = (tokens.source & (gone > 0.5).unsqueeze(-1)).any(dim=1, keepdim=True)
            source = torch.cat([tokens.source, held], dim=1)
        extras = {name: _extended(extra, best) for name, extra in tokens.extras.items()}
        extras[PACKAGE] = Extra(F.pad(package, (0, 1), value=True))
        return dataclasses.replace(
            tokens,
            x=torch.cat([tokens.x, token], dim=1),
            raster=False,
            size=None if tokens.size is None else F.pad(tokens.size, (0, 1), value=1.0),
            coords=None if tokens.coords is None else _with_row(tokens.coords, best),
            source=source,
            mask=None,
            live=None if tokens.live is None else F.pad(tokens.live, (0, 1), value=True),
            extras=extras,
        )

    def extra_loss(self, context: LossContext) -> Tensor | None:
        """This stage's share of 2 / S * sum_s (mean share kept - ratio)^2, the mean over the images
        of this forward."""
        if self.decision is None:
            return None
        initial = self.site.facts.num_patches
        share = self.decision.float().sum(dim=1).mean() / initial
        weight = self.ratio_weight / max(1, len(self.site.layers))
        return weight * (share - self.site.num_keep / initial).square()

    def deploy(self) -> None:
        self.decision = None

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        block = facts.blocks[layer]
        groups = num_groups(block.width, block.heads)
        weights = 2 * groups * max(1, groups // 2)
        judged = local_global_macs(entering, block.width // groups, groups)
        return judged + entering * (weights + block.width)

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        block = facts.blocks[0]
        groups = num_groups(block.width, block.heads)
        hidden = max(1, groups // 2)
        weights = 2 * groups * hidden + groups + hidden
        return local_global_params(block.width // groups) + weights


def _packages(tokens: Tokens) -> Tensor:
    """(B, n) bool: which tokens are packages of earlier stages."""
    known = tokens.extras.get(PACKAGE)
    if known is not None:
        return known.values
    return tokens.x.new_zeros(tokens.x.shape[0], tokens.num_patches, dtype=torch.bool)


def _with_row(values: Tensor, row: Tensor) -> Tensor:
    """`values` (B, n, ...) with a copy of row `row` (B, 1) at the end."""
    return torch.cat([values, gather_rows(values, row)], dim=1)


def _extended(extra: Extra, row: Tensor) -> Extra:
    values = extra.values
    for axis in extra.token_axes:
        values = torch.cat([values, gather_rows(values, row, axis)], dim=axis)
    return Extra(values, extra.token_axes)
