"""A ViT of timm without some of its blocks, heads and MLP units: cut out, not masked.

Every tensor that has a row or column per head or per unit loses those of what is pruned; the width
of the tokens, and what is per channel of them (norms, LayerScale) or per channel of a head (norms
of queries and keys), stays. Families whose heads or units are tied to more are refused by name.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from autotok.config import Subnet
from autotok.errors import ConfigError, UnsupportedBackbone
from autotok.facts import BackboneFacts, BlockFacts
from autotok.pruned_spec import PrunedSpec, listed_units

from .base import Backbone, Uncut
from .timm_vit import TimmModel

B = TypeVar("B", bound=Backbone)


@dataclass(frozen=True)
class _Sliced:
    """A tensor of a block with entries per head or per MLP unit along one axis."""

    name: str
    axis: int
    of: str
    """'heads' or 'units'."""
    parts: int = 1
    """Stacked along the axis: queries, keys and values, or both halves of a gated MLP."""


_SLICED = (
    *(_Sliced(f"attn.qkv.{t}", 0, "heads", 3) for t in ("weight", "bias")),
    *(_Sliced(f"attn.{p}.{t}", 0, "heads") for p in ("q_proj", "k_proj", "v_proj", "gate")
      for t in ("weight", "bias")),
    *(_Sliced(f"attn.{b}", 0, "heads") for b in ("q_bias", "k_bias", "v_bias")),
    _Sliced("attn.proj.weight", 1, "heads"),
    *(_Sliced(f"mlp.{p}.{t}", 0, "units") for p in ("fc1_g", "fc1_x") for t in ("weight", "bias")),
    _Sliced("mlp.fc2.weight", 1, "units"),
)  # fmt: skip
"""Of every kind of block of timm; each has some of them."""


def why_not_prunable(backbone: Backbone) -> str | None:
    """Why nothing can be cut out of a backbone, in words; None where it can."""
    if not isinstance(backbone, TimmModel):
        if backbone.facts.family == "autoformer":
            return "AutoFormer's structure is chosen by the subnets of its supernet"
        return "pruning knows the parts of timm's ViTs only; load the same weights through timm"
    if backbone.facts.family == "timm_relative":
        return "each of its heads has a table of relative positions, which blocks may share"
    if getattr(backbone.model, "rope_mixed", False):
        return "its rotary angles are learned for every head"
    for index in range(backbone.facts.num_blocks):
        block = backbone.block(index)
        if not isinstance(getattr(block.attn, "norm", nn.Identity()), nn.Identity):
            return f"block {index} normalises across its heads"
        if not isinstance(getattr(block.mlp, "norm", nn.Identity()), nn.Identity):
            return f"block {index} normalises across its MLP units"
    return None


def require_prunable(backbone: Backbone) -> None:
    """Raise `UnsupportedBackbone` with the reason where nothing can be cut out."""
    reason = why_not_prunable(backbone)
    if reason is not None:
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' cannot be pruned: {reason}; leave subnet at 'fixed'"
        )


def check_subnet(backbone: Backbone, spec: PrunedSpec) -> None:
    """Raise where a structure is none of a backbone's.

    Raises:
        UnsupportedBackbone: nothing can be cut out of it.
        ConfigError: it has no such block, head or unit.
    """
    require_prunable(backbone)
    facts = backbone.facts
    if spec.blocks[-1] >= facts.num_blocks:
        raise ConfigError(
            f"subnet keeps block {spec.blocks[-1]}, but backbone '{facts.name}' has blocks 0 to"
            f" {facts.num_blocks - 1}; give a subnet that was found for it"
        )
    for index, heads, text in zip(spec.blocks, spec.heads, spec.units, strict=True):
        block, units = facts.blocks[index], listed_units(text)
        if heads[-1] >= block.heads:
            raise ConfigError(
                f"subnet keeps head {heads[-1]} of block {index}, but backbone '{facts.name}' has"
                f" heads 0 to {block.heads - 1} there; give a subnet that was found for it"
            )
        if len(text) != -(-block.hidden // 4) or units[-1] >= block.hidden:
            raise ConfigError(
                f"subnet lists {4 * len(text)} MLP units of block {index}, but backbone"
                f" '{facts.name}' has {block.hidden} there; give a subnet that was found for it"
            )


def pruned_facts(backbone: Backbone, spec: PrunedSpec) -> BackboneFacts:
    """Facts of the pruned backbone, nothing of which is built."""
    facts = backbone.facts
    blocks = tuple(_pruned_block(backbone, spec, at) for at in range(spec.depth))
    gone = sum(b.params for b in facts.blocks) - sum(b.params for b in blocks)
    return dataclasses.replace(facts, blocks=blocks, params=facts.params - gone)


def facts_under(backbone: Backbone, subnet: Subnet | None) -> BackboneFacts:
    """Facts of what a configuration's subnet leaves of a backbone that is not pruned yet.

    Raises:
        ConfigError, UnsupportedBackbone: see `check_subnet`.
    """
    if not isinstance(subnet, PrunedSpec):
        return backbone.facts
    check_subnet(backbone, subnet)
    return pruned_facts(backbone, subnet)


def _pruned_block(backbone: Backbone, spec: PrunedSpec, at: int) -> BlockFacts:
    index, heads, hidden = spec.blocks[at], len(spec.heads[at]), spec.widths[at]
    block, params = backbone.facts.blocks[index], backbone.facts.blocks[index].params
    kept, whole = {"heads": heads, "units": hidden}, {"heads": block.heads, "units": block.hidden}
    for item, tensor in _tensors(backbone, index):
        if isinstance(tensor, nn.Parameter):
            params -= tensor.numel() // whole[item.of] * (whole[item.of] - kept[item.of])
    extra = block.linear_macs_extra_per_token // block.heads * heads  # of gates, which are per head
    return dataclasses.replace(
        block, heads=heads, hidden=hidden, params=params, linear_macs_extra_per_token=extra
    )


def pruned(backbone: B, spec: PrunedSpec) -> B:
    """The backbone without what the structure leaves out, with weights of its own.

    Raises:
        ConfigError, UnsupportedBackbone: see `check_subnet`.
    """
    if backbone.pruned is not None:
        raise ConfigError(
            f"backbone '{backbone.facts.name}' is pruned already, to {backbone.pruned.short}; give"
            " the uncompressed one"
        )
    check_subnet(backbone, spec)
    memo: dict[int, Any] = {}
    for index in set(range(backbone.facts.num_blocks)) - set(spec.blocks):
        memo[id(_block(backbone, index))] = nn.Identity()  # not copied
    for at, index in enumerate(spec.blocks):
        for item, tensor in _tensors(backbone, index):
            part = tensor.detach().index_select(item.axis, _kept(backbone, spec, at, item)).clone()
            is_weight = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = (
                nn.Parameter(part, requires_grad=tensor.requires_grad) if is_weight else part
            )
    twin = copy.deepcopy(backbone, memo)
    assert isinstance(twin, TimmModel)
    for index in reversed(range(backbone.facts.num_blocks)):
        if index not in spec.blocks:
            del twin.model.blocks[index]
    twin.facts = pruned_facts(backbone, spec)
    for block, facts in zip(twin.model.blocks, twin.facts.blocks, strict=True):
        _tell_sizes(block, facts)
    twin.pruned, twin.uncut = spec, Uncut(backbone)
    return twin


def _tell_sizes(block: Any, facts: BlockFacts) -> None:
    """What timm's modules say of themselves, after what they hold."""
    block.attn.num_heads = facts.heads
    if hasattr(block.attn, "attn_dim"):
        block.attn.attn_dim = facts.inner_width
    for part in block.modules():
        if isinstance(part, nn.Linear):
            part.out_features, part.in_features = part.weight.shape


def in_whole_shapes(backbone: Backbone) -> Backbone:
    """A pruned backbone's weights in the shapes of the uncompressed one, with zeros for the rest.

    Pruned to the same structure it is the same model again, so that its file is one that everybody
    who knows the uncompressed model can read. A backbone that is not pruned is given back.
    """
    spec, whole = backbone.pruned, backbone.whole
    if spec is None:
        return backbone
    twin = copy.deepcopy(whole).cpu()
    own = dict(backbone.weights.state_dict())
    found = {name: value for name, value in own.items() if not name.startswith("blocks.")}
    for name, value in twin.weights.state_dict().items():
        if name.startswith("blocks."):
            found[name] = torch.zeros_like(value)
    for at, index in enumerate(spec.blocks):
        sliced = {item.name: item for item, _ in _tensors(twin, index)}
        for name, value in backbone.weights.get_submodule(f"blocks.{at}").state_dict().items():
            target = found[f"blocks.{index}.{name}"]
            if name in sliced:
                rows = _kept(twin, spec, at, sliced[name])
                target.index_copy_(sliced[name].axis, rows, value.detach().to(target))
            else:
                target.copy_(value)
    twin.weights.load_state_dict(found)
    return twin


def holds_its_origin(backbone: Backbone) -> bool:
    """Whether a pruned backbone's weights are still those that it was cut from."""
    spec = backbone.pruned
    if spec is None:
        return True
    before, now = pruned(backbone.whole, spec).weights, backbone.weights
    theirs = before.state_dict()
    return all(torch.equal(v.cpu(), theirs[k].cpu()) for k, v in now.state_dict().items())


def _block(backbone: Backbone, index: int) -> Any:
    assert isinstance(backbone, TimmModel)
    return backbone.block(index)


def _tensors(backbone: Backbone, index: int) -> Iterator[tuple[_Sliced, Tensor]]:
    """The tensors of a block that pruning slices, as they are there."""
    block = _block(backbone, index)
    halves = backbone.facts.blocks[index].mlp_matrices - 1
    named = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    joint = (_Sliced(f"mlp.fc1.{t}", 0, "units", halves) for t in ("weight", "bias"))
    for item in (*_SLICED, *joint):
        if item.name in named:
            yield item, named[item.name]


def _kept(backbone: Backbone, spec: PrunedSpec, at: int, item: _Sliced) -> Tensor:
    """(n,) what a sliced tensor keeps along its axis."""
    block = backbone.facts.blocks[spec.blocks[at]]
    if item.of == "heads":
        whole, kept = block.inner_width, torch.tensor(spec.heads[at])
        kept = (kept[:, None] * block.head_dim + torch.arange(block.head_dim)).flatten()
    else:
        whole, kept = block.hidden, torch.tensor(listed_units(spec.units[at]))
    rows = torch.cat([kept + part * whole for part in range(item.parts)])
    return rows.to(next(backbone.parameters()).device)
