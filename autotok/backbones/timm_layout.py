"""What a checkpoint of one of timm's ViTs tells about its architecture.

Widths, depth and patch size are the name's to say. The rest (LayerScale, norms, pooling, prefix
tokens, classes, image size) differs among models of one name, and is read from the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

FEATURES = {
    "class_token": "cls_token",
    "pre_norm": "norm_pre.weight",
    "qkv_bias": "blocks.0.attn.qkv.bias",
    "proj_bias": "blocks.0.attn.proj.bias",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "scale_attn_norm": "blocks.0.attn.norm.weight",
    "scale_mlp_norm": "blocks.0.mlp.norm.weight",
}
"""timm's arguments that are true where a tensor of this name exists."""


RELATIVE = "relative_position_bias_table"


def inferred_arguments(
    tensors: Mapping[str, Tensor], template: Any, *, image_size: int | None = None
) -> dict[str, Any]:
    """Arguments of `timm.create_model` in which the file differs from the named model.

    Args:
        tensors: A state dict under timm's names.
        template: The named model as timm makes it, on any device.
        image_size: Input side that was asked for; else that of the file's position table.

    Raises:
        ValueError: the position table belongs to no square grid.
    """
    own = template.state_dict()
    found = {re.sub(r"^blocks\.\d+\.", "blocks.0.", key) for key in tensors}  # in any block
    arguments: dict[str, Any] = {
        word: key in found for word, key in FEATURES.items() if (key in found) != (key in own)
    }
    scaled = "blocks.0.ls1.gamma"
    if (scaled in found) != (scaled in own):
        arguments["init_values"] = 1.0 if scaled in found else None
    registers = _size(tensors.get("reg_token"), 1, 3)
    if registers != template.num_reg_tokens:
        arguments["reg_tokens"] = registers
    arguments |= _pooling(tensors, template, own)
    return arguments | sized_arguments(tensors, template, image_size=image_size)


def sized_arguments(
    tensors: Mapping[str, Tensor], template: Any, *, image_size: int | None = None
) -> dict[str, Any]:
    """Those of `inferred_arguments` that any of timm's ViTs takes: classes, channels, image size.

    Raises:
        ValueError: the positions belong to no square grid.
    """
    arguments: dict[str, Any] = {}
    classes = _size(tensors.get("head.weight"), 0, 2)
    if classes != template.num_classes:
        arguments["num_classes"] = classes
    channels = _size(tensors.get("patch_embed.proj.weight"), 1, 4)
    if channels not in (0, template.in_chans):
        arguments["in_chans"] = channels
    if not any(key.endswith(RELATIVE) for key in tensors):
        return arguments | _positions(tensors, template, image_size)
    side = image_size or _relative_side(tensors) * template.patch_embed.patch_size[0]
    return arguments if side == template.patch_embed.img_size[0] else arguments | {"img_size": side}


def reads_both(tensors: Mapping[str, Tensor], template: Any) -> bool:
    """Whether the head reads class token and mean of the patches, side by side."""
    return bool(_size(tensors.get("head.weight"), 1, 2) == 2 * template.embed_dim)


def _relative_side(tensors: Mapping[str, Tensor]) -> int:
    """Patches along a side of the grid that the tables of relative positions are of."""
    table = next(value for key, value in tensors.items() if key.endswith(RELATIVE))
    for beside in (0, 3):  # entries for pairs with a class token
        offsets = _side(table.shape[0] - beside) if table.dim() == 2 else 0
        if offsets % 2:
            return (offsets + 1) // 2
    raise ValueError(f"its {table.shape[0]} relative positions are those of no square grid")


def _size(tensor: Tensor | None, axis: int, dimensions: int) -> int:
    """Extent along an axis; 0 where there is no such tensor."""
    return tensor.shape[axis] if tensor is not None and tensor.dim() == dimensions else 0


def _pooling(
    tensors: Mapping[str, Tensor], template: Any, own: Mapping[str, Tensor]
) -> dict[str, Any]:
    """How the tokens are read out, as far as it shows in the weights."""
    if "attn_pool.latent" in tensors:
        return {} if template.global_pool == "map" else {"global_pool": "map", "fc_norm": False}
    if "fc_norm.weight" in tensors and "fc_norm.weight" not in own:
        return {"global_pool": "avg", "fc_norm": True}
    if "cls_token" not in tensors and template.global_pool == "token":
        return {"global_pool": "avg", "fc_norm": False}  # nothing else is left to read
    return {}


def _positions(
    tensors: Mapping[str, Tensor], template: Any, image_size: int | None
) -> dict[str, Any]:
    """Image size, and whether prefix tokens have rows in the position table."""
    asked: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    rows = _size(tensors.get("pos_embed"), 1, 3)
    if not rows:
        return asked
    distilled = "dist_token" in tensors
    prefix = ("cls_token" in tensors) + distilled + _size(tensors.get("reg_token"), 1, 3)
    rows_grid, columns_grid = template.patch_embed.grid_size
    named = getattr(template, "no_embed_class", False)
    counts = {named: rows - (0 if named else prefix)}
    if prefix and not distilled and hasattr(template, "no_embed_class"):
        counts[not named] = rows - (prefix if named else 0)
    fits = [flag for flag, count in counts.items() if count == rows_grid * columns_grid]
    fits += [flag for flag, count in counts.items() if count > 0 and _side(count)]
    if not fits:
        raise ValueError(f"its {rows} position rows are those of no square grid")
    flag, count = fits[0], counts[fits[0]]
    if flag != named:
        asked["no_embed_class"] = flag
    if image_size is None and count != rows_grid * columns_grid:
        asked["img_size"] = _side(count) * template.patch_embed.patch_size[0]
    return asked


def _side(count: int) -> int:
    """The side of a square of `count` patches; 0 where it is none."""
    side = math.isqrt(count)
    return side if side * side == count else 0
