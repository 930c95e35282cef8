"""Loss terms and schedules that methods state themselves, as pure functions.

Shapes: B images, N patch tokens, D channels, H heads. A mask is 1 for kept and 0 for dropped.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.facts import BackboneFacts

from .base import Site
from .primitives import directions


def dynamicvit_ratio(mask: Tensor, keep: float) -> Tensor:
    """mean_b (mean_i mask - keep)^2 of a stage; mask (B, N)."""
    return (mask.mean(dim=1) - keep).square().mean()


def idlevit_cut(attention_logits: Tensor, mask: Tensor) -> Tensor:
    """(2,), both terms of IdleViT's token-cut loss of one layer (Xu et al., AJCAI 2023).

    `attention_logits` (B, H, N, N) are raw and include the class token, as `mask` (B, N) does (1
    for it). With W = softmax over keys of their mean over heads: mean_i (sum_j |m_i - m_j| W_ij)^2
    without the class column, and mean_i (sum_j m_i m_j W_ij - m_i)^2.
    """
    weights = attention_logits.mean(dim=1).softmax(dim=-1)  # (B, N, N)
    rows, columns = mask.unsqueeze(2), mask.unsqueeze(1)
    crossing = ((rows - columns).abs() * weights)[:, :, 1:].sum(dim=-1)
    staying = (rows * columns * weights).sum(dim=-1)
    return torch.stack([crossing.square().mean(), (staying - mask).square().mean()])


def idlevit_features(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of IdleViT's class-token features (B, D), each of length 1."""
    return F.mse_loss(directions(student), directions(teacher.detach()))


def keep_rate_at(progress: float, *, base: float, start: float, length: float) -> float:
    """EViT's keep rate while training from scratch (Liang et al., ICLR 2022): 1, a cosine, `base`.

    1 before `start`, then base + (1 - base) (1 + cos(pi t / T)) / 2 over `length`.
    """
    share = min(max((progress - start) / length, 0.0), 1.0)
    return base + (1.0 - base) * 0.5 * (1.0 + math.cos(math.pi * share))


def self_distillation(early: Tensor, final: Tensor, *, temperature: float = 1.0) -> Tensor:
    """tau^2 KL(softmax(final / tau), softmax(early / tau)), mean over images; logits (B, classes).

    No gradient reaches `final`. METR (Liu et al., ICLR 2024) calls such a term without its code.
    """
    wanted = (final.detach().float() / temperature).log_softmax(dim=-1)
    given = (early / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(given, wanted, reduction="batchmean", log_target=True)


def straight_through_mask(scores: Tensor, threshold: Tensor, *, tau: float = 1e-4) -> Tensor:
    """1 where scores exceed the threshold, else 0; its gradient is that of the sigmoid.

    AS-ViT (arXiv 2209.13802): sigmoid((s - theta) / tau) > 0.5, for scores of any shape.
    """
    smooth = torch.sigmoid((scores - threshold) / tau)
    return (smooth > 0.5).to(smooth.dtype) + smooth - smooth.detach()


def tofe_approximation(approximated: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1/B sum_b 1/N_b sum_i (1 - M_i) ||x'_i - x_i||^2 over frozen tokens of a stage (ToFe, L_apr).

    Tokens (B, N, D), mask (B, N) with 1 for kept. N_b is taken as the number of frozen tokens, as
    the paper's words (not its formula) say; a stage that freezes nothing adds nothing.
    """
    frozen = 1.0 - mask
    error = (approximated - teacher.detach()).square().sum(dim=-1)  # (B, N)
    return ((frozen * error).sum(dim=1) / frozen.sum(dim=1).clamp_min(1.0)).mean()


def stage_costs(site: Site, counts: Tensor) -> Tensor:
    """(B, L, k): costs of blocks, as shares of the uncompressed model's, where the stages up to
    here leave `counts` (B, S, k) patch tokens."""
    facts, layers = site.facts, site.layers or (site.layer,)
    initial = torch.full_like(counts[:, :1], float(facts.num_patches))
    stage = [sum(start <= layer for start in layers) for layer in range(facts.num_blocks)]
    spent = _block_costs(facts, torch.cat([initial, counts], dim=1)[:, stage].float())
    dense = _block_costs(facts, initial.float().expand(-1, facts.num_blocks, -1))
    return spent / dense[0, :, 0].detach().sum()


def _block_costs(facts: BackboneFacts, patches: Tensor) -> Tensor:
    """Multiply-accumulates of blocks on `patches` (B, L, k) patch tokens."""
    linear = [
        4 * b.width * b.inner_width + b.mlp_matrices * b.width * b.hidden for b in facts.blocks
    ]
    pairs = [2 * b.inner_width for b in facts.blocks]
    tokens = patches + facts.num_prefix
    first, second = (tokens.new_tensor(row).unsqueeze(-1) for row in (linear, pairs))  # (L, 1)
    return first * tokens + second * tokens * tokens


def tofe_flops(costs: Tensor, target: float) -> Tensor:
    """mean_b (sum_l F(N_l) - target)^2 (ToFe, L_FLOPs); costs (B, L) in the unit of the target."""
    return (costs.sum(dim=1) - target).square().mean()
