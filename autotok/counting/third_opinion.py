"""fvcore's count beside ours: the figure that many compare with, and where it differs.

fvcore adds up a traced forward by its own table of operators. It has no row for fused attention, so
both its products are missing there; norms, which the formula and torch's counter leave out, are in.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autotok.compression.model import CompressedViT
from autotok.errors import UsageError

NORMS = ("layer_norm", "batch_norm", "group_norm", "instance_norm")


@dataclass(frozen=True)
class FvcoreCount:
    """What fvcore counts of one image."""

    macs: int
    by_operator: Mapping[str, int]
    left_out: Mapping[str, int]
    """Operators that it has no row for, and how often each ran."""

    @property
    def norms(self) -> int:
        """Of it, what norms are said to cost."""
        return sum(self.by_operator.get(name, 0) for name in NORMS)


@torch.no_grad()
def count_with_fvcore(model: CompressedViT) -> FvcoreCount:
    """fvcore's count of one image; the model is traced where it is.

    Raises:
        UsageError: fvcore is not installed.
    """
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError as error:
        raise UsageError(
            "fvcore's count needs fvcore, which is not installed: run"
            " `pip install 'autotok[check]'`"
        ) from error
    like = next(model.parameters())
    image = torch.zeros(1, *model.backbone.facts.image_shape, dtype=like.dtype, device=like.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, on Python numbers
        analysis = FlopCountAnalysis(model, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        total, by_operator = int(analysis.total()), dict(analysis.by_operator())
        left_out = dict(analysis.unsupported_ops())
    return FvcoreCount(total, {k: int(v) for k, v in by_operator.items()}, left_out)
