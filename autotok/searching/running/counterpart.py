"""What a model may be compared with: one that takes the same images and answers alike.

Another backbone may be meant, a larger one or the weights before a fine-tune; what does not fit is
told in a sentence before an image is run.
"""

from __future__ import annotations

from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.searching.space.search_space import SearchSpace
from autotok.searching.space.subnets import Structure


def require_counterpart(
    model: CompressedViT, original: Backbone, metric: str, *, taker: Backbone | None = None
) -> None:
    """Raise `ConfigError` unless a model can be held against `original` by a metric.

    `taker` is shown images of the other's size, the model by default: it may resize them.
    """
    ours, taker = model.backbone, taker or model.backbone
    kinds = [_images(b, sized=not taker.is_resized) for b in (original, ours)]
    if metric not in ("own", "own_loss"):  # a function may make anything of both
        kinds += [_answers(b.facts) for b in (original, ours)]
    if metric == "feature":
        kinds += [_patches(b.facts) for b in (original, ours)]
    for theirs, own in zip(kinds[::2], kinds[1::2], strict=True):
        if theirs != own:
            names = f"'{original.facts.name}' {theirs}, the compressed one of '{ours.facts.name}'"
            way = "choose agreement or kl" if "patches" in own else "give the model it came from"
            raise ConfigError(f"the uncompressed model {names} {own}: they do not compare; {way}")


def require_same_patches(space: SearchSpace, facts: BackboneFacts) -> None:
    """Raise `ConfigError` where a space holds what quality 'feature' cannot compare with a
    backbone."""
    width, own = facts.blocks[-1].width, facts.image_shape[1:]
    found = [f"image size {s} has other patches" for s in space.image_sizes if (s, s) != own]
    if isinstance(space.structure, Structure):
        widths = (w for w in space.structure.embed_choices if w != width)
        found += [f"a subnet {w} wide has other features" for w in widths]
    lower = (name for name in space.number_formats if name != "float32")
    found += [f"number format {name} is judged from a file, which gives none" for name in lower]
    if found:
        raise ConfigError(
            "quality 'feature' compares features patch by patch with the uncompressed model's, and"
            f" {found[0]}; leave that out, or choose agreement or kl"
        )


def _images(backbone: Backbone, *, sized: bool) -> str:
    channels, rows, columns = backbone.own_facts.image_shape
    return f"takes images of {channels} channels" + f" and {rows} x {columns} pixels" * sized


def _answers(facts: BackboneFacts) -> str:
    if facts.num_classes:
        return f"answers in {facts.num_classes} classes"
    return f"answers in {facts.blocks[-1].width} features, pooled as '{facts.pooling}'"


def _patches(facts: BackboneFacts) -> str:
    rows, columns = facts.grid
    width, beside = facts.blocks[-1].width, facts.num_prefix
    return f"has {rows} x {columns} patches of {width} features and {beside} other tokens"
