"""Loss terms and schedules that belong to one method's own training, as pure functions.

What methods state themselves lives in `autotok.methods.losses` and is named here too; the criteria
below add losses of this room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.methods.losses import (
    dynamicvit_ratio,
    idlevit_cut,
    idlevit_features,
    keep_rate_at,
    straight_through_mask,
    tofe_approximation,
    tofe_flops,
)

from .losses import soft, token_kl, token_mse

__all__ = [
    "DynamicViTTerms",
    "dynamicvit_criterion",
    "dynamicvit_ratio",
    "frd",
    "idlevit_cut",
    "idlevit_features",
    "keep_rate_at",
    "straight_through_mask",
    "tofe_approximation",
    "tofe_flops",
]


@dataclass(frozen=True)
class DynamicViTTerms:
    """DynamicViT's criterion, unweighted terms and weighted sum."""

    total: Tensor
    classification: Tensor
    ratio_sum: Tensor
    """Sum over stages of `dynamicvit_ratio`'s terms (the criterion weighs their mean)."""
    logits: Tensor
    tokens: Tensor


def dynamicvit_criterion(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    tokens: Tensor,
    teacher_tokens: Tensor,
    masks: Sequence[Tensor],
    keep: Sequence[float],
    *,
    ratio_weight: float = 2.0,
    distill_weight: float = 0.5,
    clf_weight: float = 1.0,
    mse_token: bool = True,
    token_mask: Tensor | None = None,
) -> DynamicViTTerms:
    """DynamicViT (Rao et al., NeurIPS 2021, arXiv 2106.02034; code raoyongming/DynamicViT).

    CE + 2 / S * sum_s ratio_s + 0.5 KL(logits) + 0.5 token term over the tokens still live at the
    end: `token_mask`, by default the last of `masks` (B, N). Tokens are (B, N, D).
    """
    classification = F.cross_entropy(logits, labels)
    ratio = dynamicvit_ratio(masks, keep)
    kl = soft(logits, teacher_logits)
    live = masks[-1] if token_mask is None else token_mask
    token = (token_mse if mse_token else token_kl)(tokens, teacher_tokens, live)
    total = clf_weight * classification + ratio_weight / len(keep) * ratio
    total = total + distill_weight * (kl + token)
    return DynamicViTTerms(total, classification, ratio, kl, token)


def frd(
    logits: Tensor,
    teacher_logits: Tensor,
    tokens: Sequence[Tensor],
    teacher_tokens: Sequence[Tensor],
    *,
    lambda_token: float = 2.0,
    lambda_logits: float = 2.0,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(logit term, dense token term) of SiT's feature recalibration, weights included.

    Zong et al., ECCV 2022, arXiv 2111.11962; code Sense-X/SiT. lambda * T^2 * KL(teacher ||
    student), and lambda * mean over blocks of the squared error between the student's tokens,
    expanded back to N0, and the teacher's, (B, N0, D) each.
    """
    pairs = zip(tokens, teacher_tokens, strict=True)
    errors = [F.mse_loss(mine, theirs.detach()) for mine, theirs in pairs]
    kl = soft(logits, teacher_logits, temperature=temperature)
    return lambda_logits * kl, lambda_token * torch.stack(errors).mean()
