"""One subnet cut out of a supernet: a weight file of its own, checked against the view."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from autotok.backbones.autoformer import AutoFormerBase
from autotok.backbones.loading import load_backbone
from autotok.backbones.supernet import SupernetView
from autotok.backbones.supernet_file import save_cut
from autotok.errors import ExportError

TOLERANCE = 1e-6
"""Of the logits' scale, between the cut model and the view it was cut from."""


def cut_to_file(view: SupernetView, path: Path, images: Tensor) -> float:
    """Write the view's subnet; the largest difference of the file's logits from the view's.

    The difference is over the logits' scale, on `images` (n, C, H, W), after reading the file back.

    Raises:
        ExportError: it is more than float rounding; the file is then removed.
    """
    name = view.facts.name
    save_cut(view.supernet.cut(view.subnet, name=name), path, name=name)
    again = load_backbone(name, checkpoint=path)
    assert isinstance(again, AutoFormerBase)
    difference = largest_difference(again, view, images)
    if not difference <= TOLERANCE:
        path.unlink()
        raise ExportError(
            f"the subnet cut to '{path}' differs from the supernet's view by {difference:.1e}"
            f" (allowed {TOLERANCE:.0e}); nothing was written, please report it"
        )
    return difference


@torch.inference_mode()
def largest_difference(one: AutoFormerBase, other: AutoFormerBase, images: Tensor) -> float:
    """Largest difference of two models' logits over images (n, C, H, W), over their scale."""
    worst, scale = 0.0, 1.0
    for image in images:
        a, b = one.eval()(image[None]), other.eval()(image[None])
        worst = max(worst, float((a - b).abs().max()))
        scale = max(scale, float(b.abs().max()))
    return worst / scale
