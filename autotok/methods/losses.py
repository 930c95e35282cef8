"""Loss terms and schedules that methods state themselves, as pure functions.

Shapes: B images, N patch tokens, D channels, H heads. A mask is 1 for kept and 0 for dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .primitives import directions


def dynamicvit_ratio(masks: Sequence[Tensor], keep: Sequence[float]) -> Tensor:
    """Sum over stages of mean_b (mean_i mask - keep)^2; masks (B, N) per stage."""
    terms = [(m.mean(dim=1) - k).square().mean() for m, k in zip(masks, keep, strict=True)]
    return torch.stack(terms).sum()


def idlevit_cut(
    attention_logits: Sequence[Tensor], masks: Sequence[Tensor], kind: str = "both"
) -> Tensor:
    """IdleViT's token-cut loss, summed over the layers given (Xu et al., AJCAI 2023).

    `attention_logits` (B, H, N, N) are raw and include the class token, as `masks` (B, N) do (1 for
    it). With W = softmax over keys of their mean over heads: 'inter' is mean_i (sum_j |m_i - m_j|
    W_ij)^2 without the class column, 'intra' mean_i (sum_j m_i m_j W_ij - m_i)^2.

    The authors' loop deletes list entries while walking them and so skips every other layer; pass
    `layers[::2]` to reproduce it.
    """
    total = attention_logits[0].new_zeros(())
    for logits, mask in zip(attention_logits, masks, strict=True):
        weights = logits.mean(dim=1).softmax(dim=-1)  # (B, N, N)
        rows, columns = mask.unsqueeze(2), mask.unsqueeze(1)
        if kind in ("both", "inter"):
            crossing = ((rows - columns).abs() * weights)[:, :, 1:].sum(dim=-1)
            total = total + crossing.square().mean()
        if kind in ("both", "intra"):
            staying = (rows * columns * weights).sum(dim=-1)
            total = total + (staying - mask).square().mean()
    return total


def idlevit_features(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of IdleViT's class-token features (B, D), each of length 1."""
    return F.mse_loss(directions(student), directions(teacher.detach()))


def keep_rate_at(
    iteration: float,
    *,
    iterations_per_epoch: float,
    base: float,
    start_epoch: float = 10,
    shrink_epochs: float = 100,
) -> float:
    """EViT's keep rate while training from scratch (Liang et al., ICLR 2022): 1, a cosine, `base`.

    1 before `start_epoch`, then base + (1 - base) (1 + cos(pi t / T)) / 2 over `shrink_epochs`.
    """
    first = start_epoch * iterations_per_epoch
    length = shrink_epochs * iterations_per_epoch
    if iteration < first:
        return 1.0
    if iteration >= first + length:
        return base
    return base + (1.0 - base) * 0.5 * (1.0 + math.cos(math.pi * (iteration - first) / length))


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


def tofe_approximation(
    approximated: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor]
) -> Tensor:
    """1/B sum_b sum_s 1/N_b^s sum_i (1 - M_i) ||x'_i - x_i||^2 over frozen tokens (ToFe, L_apr).

    Tokens (B, N, D) per stage, masks (B, N) with 1 for kept. N_b^s is taken as the number of frozen
    tokens, as the paper's words (not its formula) say; a stage that freezes nothing adds nothing.
    """
    total = approximated[0].new_zeros(())
    for mine, theirs, mask in zip(approximated, teacher, masks, strict=True):
        frozen = 1.0 - mask
        error = (mine - theirs.detach()).square().sum(dim=-1)  # (B, N)
        total = total + ((frozen * error).sum(dim=1) / frozen.sum(dim=1).clamp_min(1.0)).mean()
    return total


def tofe_flops(costs: Tensor, target: float) -> Tensor:
    """mean_b (sum_l F(N_l) - target)^2 (ToFe, L_FLOPs); costs (B, L) in the unit of the target."""
    return (costs.sum(dim=1) - target).square().mean()
