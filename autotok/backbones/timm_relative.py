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
        attn, shared = self.block(index).attn, self.model.rel_pos_bias
        own = None if attn.relative_position_bias_table is None else attn._get_rel_pos_bias()[0]
        for_all = None if shared is None else shared()
        if own is None or for_all is None:
            return cast(Tensor | None, for_all if own is None else own)
        return cast(Tensor, own + for_all)


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
        networks = sum(_macs_of(self._positions(i)) for i in range(self.facts.num_blocks))
        # whatever goes, they run over all offsets of the grid
        self.facts = dataclasses.replace(self.facts, stem_macs=self.facts.stem_macs + networks)

    def bias(self, index: int) -> Tensor | None:
        given = self._positions(index)
        return None if given is None else cast(Tensor, given.get_bias()[0])

    def _positions(self, index: int) -> Any:
        own = self.block(index).attn.rel_pos
        return self.model.shared_rel_pos if own is None else own


def _macs_of(positions: Any) -> int:
    """Of one network, over all offsets; 0 for a table."""
    if not hasattr(positions, "rel_coords_log"):
        return 0
    offsets = positions.rel_coords_log[..., 0].numel()
    linears = [m for m in positions.mlp.modules() if isinstance(m, nn.Linear)]
    return int(offsets * sum(m.weight.numel() for m in linears))
