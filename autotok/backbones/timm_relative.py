"""timm's ViTs with relative position biases: BEiT, BEiT v2, and ViTs with log-coordinate MLPs.

Each pair of tokens has a number added to its logit, by head, which hangs on how far apart they are
in the grid. The whole grid's numbers are made as timm makes them; after a reduction every pair
reads those of the places that its two tokens came from.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from torch import Tensor, nn

from .timm_eva import joint_projection
from .timm_refusals import check_model
from .timm_vit import TimmModel, timm_parts
from .torchvision_shim import ensure_torchvision
from .wrapped import BlockParts

ensure_torchvision()

from timm.models import beit  # noqa: E402
from timm.models import vision_transformer_relpos as relpos  # noqa: E402

OWN_GRID = "its relative position biases were learned for one grid"


class TimmBeit(TimmModel):
    """A ViT of timm's class `Beit`."""

    family = "timm_relative"
    carries_positions = True
    one_size = OWN_GRID

    def check(self, model: nn.Module, name: str) -> None:
        check_model(model, name, beit.Beit, (beit.Block,), (beit.Attention,))

    def parts(self, block: Any) -> BlockParts:
        return timm_parts(block, (joint_projection(block.attn),))

    def bias(self, index: int) -> Tensor | None:
        attn = self.block(index).attn
        if attn.relative_position_bias_table is None:
            return None
        return cast(Tensor, attn._get_rel_pos_bias()[0])

    def shared_bias(self) -> Tensor | None:
        shared = self.model.rel_pos_bias
        return None if shared is None else cast(Tensor, shared())


class TimmRelPos(TimmModel):
    """A ViT of timm's class `VisionTransformerRelPos`."""

    family = "timm_relative"
    carries_positions = True
    one_size = OWN_GRID

    def check(self, model: nn.Module, name: str) -> None:
        blocks = (relpos.RelPosBlock, relpos.ResPostRelPosBlock)
        whole, attentions = relpos.VisionTransformerRelPos, (relpos.RelPosAttention,)
        check_model(model, name, whole, blocks, attentions)

    def parts(self, block: Any) -> BlockParts:
        post_norm = type(block) is relpos.ResPostRelPosBlock
        return timm_parts(block, (block.attn.qkv,), post_norm=post_norm)

    def take_tables(self) -> None:
        # whatever goes, they run over all offsets of the grid
        networks = [_macs_of(self.block(i).attn.rel_pos) for i in range(self.facts.num_blocks)]
        networks[0] += _macs_of(self.model.shared_rel_pos)
        blocks = (
            dataclasses.replace(block, fixed_macs=macs)
            for block, macs in zip(self.facts.blocks, networks, strict=True)
        )
        self.facts = dataclasses.replace(self.facts, blocks=tuple(blocks))

    def bias(self, index: int) -> Tensor | None:
        return _bias_of(self.block(index).attn.rel_pos)

    def shared_bias(self) -> Tensor | None:
        return _bias_of(self.model.shared_rel_pos)


def _bias_of(positions: Any) -> Tensor | None:
    return None if positions is None else cast(Tensor, positions.get_bias()[0])


def _macs_of(positions: Any) -> int:
    """Of one network, over all offsets; 0 for a table."""
    if not hasattr(positions, "rel_coords_log"):
        return 0
    offsets = positions.rel_coords_log[..., 0].numel()
    linears = [m for m in positions.mlp.modules() if isinstance(m, nn.Linear)]
    return int(offsets * sum(m.weight.numel() for m in linears))
