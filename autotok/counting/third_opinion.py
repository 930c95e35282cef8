"""fvcore's count beside ours: the figure that many compare with, and where it differs.

fvcore adds up a traced forward by its own table of operators. It has no row for fused attention, so
both its products are missing there; norms, which the formula and torch's counter leave out, are in,
and of a product that is broadcast it counts the smaller operand once.
"""

from __future__ import annotations

import copy
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
    """fvcore's count of one image; a model without numbers is given some, as tracing needs them.

    Raises:
        UsageError: fvcore is not installed, or cannot trace the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it compiles with what torch 2.14 calls deprecated
            from fvcore.nn import FlopCountAnalysis
    except ImportError as error:
        raise UsageError(
            "fvcore's count needs fvcore, which is not installed: run"
            " `pip install 'autotok[check]'`"
        ) from error
    runnable = _with_numbers(model)
    like = next(runnable.parameters())
    image = torch.zeros(1, *model.backbone.facts.image_shape, dtype=like.dtype, device=like.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, on Python numbers
            analysis = FlopCountAnalysis(runnable, image)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            total, by_operator = int(analysis.total()), dict(analysis.by_operator())
            left_out = dict(analysis.unsupported_ops())
    except Exception as error:  # whatever torch's tracer makes of a method
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"fvcore cannot trace this model ({reason})") from error
    return FvcoreCount(
        macs=total,
        by_operator={name: int(count) for name, count in by_operator.items()},
        left_out={name.removeprefix("aten::"): times for name, times in left_out.items()},
    )


def _with_numbers(model: CompressedViT) -> CompressedViT:
    """The model, or a copy with random weights of one that has none."""
    if not next(model.parameters()).is_meta:
        return model
    twin = copy.deepcopy(model).to_empty(device="cpu")
    for values in (*twin.parameters(), *twin.buffers()):
        if values.is_floating_point():
            values.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
        else:
            values.zero_()
    return twin
