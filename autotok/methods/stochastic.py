"""Randomness in training: the one place where methods draw from torch's global generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hard_gumbel(log_probs: Tensor) -> Tensor:
    """One-hot samples of log-probabilities (..., K), with the gradient of the soft ones (tau 1).

    Straight-through Gumbel-softmax (Jang, Gu, Poole, ICLR 2017, arXiv 1611.01144), drawn in float32
    at least: in half precision the noise itself overflows.
    """
    wide = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    return F.gumbel_softmax(wide, tau=1.0, hard=True, dim=-1).to(log_probs.dtype)
