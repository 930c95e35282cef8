"""What was published of a run's backbone, as points beside its front."""

from __future__ import annotations

from dataclasses import dataclass

from autotok.methods.evidence import published_methods, published_results
from autotok.metrics import Metric

from .points import Point

PUBLISHED_AS = {
    "deit_tiny_patch16_224": "DeiT-T",
    "deit_small_patch16_224": "DeiT-S",
    "deit_base_patch16_224": "DeiT-B",
    "facebook/deit-tiny-patch16-224": "DeiT-T",
    "facebook/deit-small-patch16-224": "DeiT-S",
    "facebook/deit-base-patch16-224": "DeiT-B",
    "vit_small_patch16_224": "ViT-S-Augreg",
    "vit_base_patch16_224": "ViT-B-Augreg",
    "lvvit_s": "LV-ViT-S",
    "lvvit_m": "LV-ViT-M",
    "autoformer_small": "AutoFormer-S",
}
"""What tables call the backbones that autotok's names mean."""
_TAGS = ("fb_in1k", "augreg")
"""Beginnings of timm's tags that leave a name what the tables mean."""
_BUILT_IN = ("demo", "digits", "cifar10")
_AXES = ("macs_g", "top1_pct")


@dataclass(frozen=True)
class References:
    """Published points, and whether a page shows them unasked."""

    points: tuple[Point, ...] = ()
    shown: bool = False


def references(backbone: str, data: str, judged: Metric, axes: tuple[Metric, Metric]) -> References:
    """Rows of `results.csv` of the same backbone that give GFLOPs and top-1; none where the run
    judged something else. Shown unasked where the axes are those two and the images may be
    ImageNet's, which the figures are of."""
    name = _name(backbone)
    if name is None or judged.name != "top1":
        return References()
    rows = [row for method in published_methods() for row in published_results(method)]
    points = tuple(
        Point(
            row.method,
            row.gflops,
            row.top1_pct,
            figures={} if row.params_m is None else {"params_m": row.params_m},
            kind="published",
            mode=", ".join(part for part in (row.setting, row.variant) if part),
            source=f"{row.source}, {row.table}" if row.table else row.source,
        )
        for row in rows
        if row.backbone == name and row.gflops is not None and row.top1_pct is not None
    )
    alike = tuple(metric.column for metric in axes) == _AXES and data not in _BUILT_IN
    return References(points, shown=alike)


def _name(backbone: str) -> str | None:
    name, _, tag = backbone.removeprefix("hf:").partition(".")
    return PUBLISHED_AS.get(name) if not tag or tag.startswith(_TAGS) else None
