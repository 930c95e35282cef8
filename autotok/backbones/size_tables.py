"""Position tables of a model's own for images of several sizes, which SuperViT trains.

Lin et al., arXiv 2205.11397: all else is shared, and each size adds a table of its own. `at_size`
takes the one of its side where there is one. Weight files hold them as `pos_embed_by_size.SIDE`
beside `pos_embed`; the authors' `pos_embed_list.NUMBER` (CF-ViT's too) is read as well.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import CheckpointError, UnsupportedBackbone

from .base import SIZE_TABLES, Backbone, resampled_positions
from .timm_vit import TimmViT

OWN = "pos_embed"
LISTED = re.compile(rf"pos_embed_list\.\d+|{SIZE_TABLES}\.\d+")


def add_size_tables(backbone: Backbone, sides: Iterable[int]) -> None:
    """Give a backbone position tables for images of these sides, which start as its own, resampled.

    Those that it has stay as they are; its own size has one already.

    Raises:
        ConfigError: a side that cannot be, see `BackboneFacts.at_size`.
        UnsupportedBackbone: it is no plain ViT of timm with a position table.
    """
    if not isinstance(backbone, TimmViT) or not backbone.facts.has_position_table:
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' (family {backbone.facts.family}) cannot hold"
            " position tables for several image sizes; use a plain ViT or DeiT from timm"
        )
    for side in sides:
        backbone.facts.at_size(side)
    hold_size_tables(backbone.model, sides)
    params = sum(p.numel() for p in backbone.model.parameters())
    backbone.facts = dataclasses.replace(backbone.facts, params=params)


@torch.no_grad()
def hold_size_tables(model: Any, sides: Iterable[int]) -> None:
    """Give a model of timm parameters of the names and shapes that such tables have."""
    own, patch = model.patch_embed.grid_size, model.patch_embed.patch_size
    known = getattr(model, SIZE_TABLES, nn.ParameterDict())
    for side in sorted(set(sides)):
        grid = (side // patch[0], side // patch[1])
        if str(side) not in known and grid != own:
            table = resampled_positions(model.pos_embed, own, grid)
            known[str(side)] = nn.Parameter(table.clone())
    if known:
        setattr(model, SIZE_TABLES, known)


def listed_sides(tensors: Mapping[str, Tensor]) -> list[int]:
    """Sides in pixels, beside its own, that tensors have tables for, a model's or `by_size`'s."""
    found = (key.partition(".") for key in tensors)
    return sorted(int(side) for name, _, side in found if name == SIZE_TABLES)


def by_size(
    tensors: Mapping[str, Tensor], *, image_size: int | None = None, origin: str, name: str
) -> Mapping[str, Tensor]:
    """A checkpoint's tensors with its position tables under autotok's names.

    The table of the side that is asked for becomes the model's own; else `pos_embed` is, or the
    largest where tables are only listed. Files without a list are left as they are.

    Args:
        origin: The file, for messages.
        name: The backbone, for messages.

    Raises:
        CheckpointError: a table is that of no square grid, or of the same size as another.
    """
    listed = [key for key in tensors if LISTED.fullmatch(key)]
    if not listed:
        return tensors
    tables: dict[int, Tensor] = {}
    for key in [*listed, *([OWN] if OWN in tensors else [])]:
        side = _side(key, tensors)
        if not side or side in tables:
            what = f"is a second position table for images of {side} pixels"
            what = what if side else "has the position rows of no square grid of patches"
            raise CheckpointError(
                f"checkpoint '{origin}' does not fit backbone '{name}': '{key}' {what}"
            )
        tables[side] = tensors[key]
    own = _side(OWN, tensors) if OWN in tensors else max(tables)
    own = image_size if image_size in tables else own
    rest = {key: value for key, value in tensors.items() if key not in {*listed, OWN}}
    others = {f"{SIZE_TABLES}.{side}": table for side, table in tables.items() if side != own}
    return {**rest, OWN: tables[own], **others}


def _side(key: str, tensors: Mapping[str, Tensor]) -> int:
    """Pixels along a side of the images that a position table is for; 0 where nothing says."""
    weight, registers = tensors.get("patch_embed.proj.weight"), tensors.get("reg_token")
    if weight is None or weight.dim() != 4 or tensors[key].dim() != 3:
        return 0
    rows, prefix = tensors[key].shape[1], ("cls_token" in tensors) + ("dist_token" in tensors)
    if registers is not None and registers.dim() == 3:
        prefix += registers.shape[1]
    sides = (math.isqrt(max(0, count)) for count in (rows - prefix, rows))
    found = [side for side in sides if side and side * side in (rows - prefix, rows)]
    return found[0] * weight.shape[-1] if found else 0
