"""timm's EVA family: EVA, EVA-02, DINOv3, Perception Encoder, its own ViTs with rotary positions.

Plain ViTs but for their attention: queries and keys of patches are turned by angles that their
places give (one table for all blocks, or one for every block and head), projections may be one or
three, and norms, gates and gated MLPs stand in places of their own.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from .attention import LinearPart, Projection
from .base import evaluating
from .timm_refusals import check_model, refuse
from .timm_vit import TimmModel, timm_parts
from .torchvision_shim import ensure_torchvision
from .wrapped import BlockParts

ensure_torchvision()

from timm.layers import AttentionRope  # noqa: E402
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm  # noqa: E402


class TimmEva(TimmModel):
    """A ViT of timm's class `Eva`."""

    family = "timm_eva"
    table: Tensor | None
    """(N0, 2 D), the rotary sines and cosines of the whole grid, where all blocks share them."""

    def check(self, model: nn.Module, name: str) -> None:
        check_eva(model, name)
        self.carries_positions = getattr(model, "rope", None) is not None

    def take_tables(self) -> None:
        rope, table = self.model.rope, None
        if rope is not None and not getattr(self.model, "rope_mixed", False):
            made = getattr(rope, "feat_shape", None) is not None  # else for images of any size
            if made and self.is_resized:
                rope = copy.deepcopy(rope)
                rope.update_feat_shape(list(self.facts.grid))
            known = {} if made else {"shape": list(self.facts.grid)}
            with evaluating(rope):  # in training timm shakes them; blocks must agree, so it is left
                table = rope.get_embed(**known).detach().clone()
        self.register_buffer("table", table, persistent=False)
        self.turns_halves = bool(getattr(self.model.blocks[0].attn, "rotate_half", False))

    def before_blocks(self, x: Tensor) -> Tensor:
        norm: nn.Module = getattr(self.model, "norm_pre", nn.Identity())
        normed: Tensor = norm(x)
        return normed

    def parts(self, block: Any) -> BlockParts:
        post_norm = type(block) is EvaBlockPostNorm
        return timm_parts(block, _projections(block.attn), post_norm=post_norm)

    def angles(self, index: int) -> Tensor | None:
        rope = self.model.rope
        if rope is None or self.table is not None:
            return self.table
        # of one block alone: timm makes those of all blocks at once
        freqs = rope.freqs[:, index].float().unsqueeze(-2)  # (2, H, 1, D / 2)
        place_x, place_y = self._mixed_places(rope)
        turns = place_x[:, None] * freqs[0] + place_y[:, None] * freqs[1]
        turns = turns.repeat_interleave(2, dim=-1)  # (H, N0, D)
        return torch.cat([turns.sin(), turns.cos()], dim=-1).to(rope.freqs.dtype)

    def _mixed_places(self, rope: Any) -> tuple[Tensor, Tensor]:
        if rope.t_x is not None and not self.is_resized:
            return rope.t_x, rope.t_y
        return cast(tuple[Tensor, Tensor], rope._get_grid_values(self.facts.grid))


def _projections(attn: Any) -> tuple[Projection, ...]:
    """Queries', keys' and values' own, or the joint one with its biases where they are apart."""
    if attn.qkv is None:
        return (attn.q_proj, attn.k_proj, attn.v_proj)
    return (joint_projection(attn),)


def joint_projection(attn: Any) -> Projection:
    """The joint projection of an attention whose biases may stand beside it (keys have none)."""
    if getattr(attn, "q_bias", None) is None:
        joint: nn.Linear = attn.qkv
        return joint
    return LinearPart(attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))


def check_eva(model: Any, name: str) -> None:
    """Raise `UnsupportedBackbone` naming the first thing the adapter cannot run."""
    check_model(model, name, Eva, (EvaBlock, EvaBlockPostNorm), (EvaAttention, AttentionRope))
    if any(getattr(block.attn, "num_kv_groups", 1) > 1 for block in model.blocks):
        refuse(name, "its keys are shared by several heads, and methods read one key for each")
