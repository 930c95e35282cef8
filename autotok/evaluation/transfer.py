"""Batches on their way to where the model runs."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(batch: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The batch on a device; to a GPU from pinned memory, so that the host need not wait."""
    to_gpu = device.type == "cuda" and batch.device.type == "cpu"
    if to_gpu:
        batch = batch.pin_memory()
    return batch.to(device, dtype or batch.dtype, non_blocking=to_gpu)
