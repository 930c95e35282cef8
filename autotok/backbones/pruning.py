"""A ViT without some of its blocks, heads and MLP units: cut out, not masked.

Every tensor that has a row or column per head or per unit loses those of what is pruned; the width
of the tokens, and what is per channel of them (norms, LayerScale) or per channel of a head (norms
of queries and keys), stays. Names are those of timm and transformers; families whose heads or units
are tied to more are refused by name.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from autotok.config import Subnet, SubnetSpec
from autotok.errors import ConfigError, UnsupportedBackbone
from autotok.facts import BackboneFacts, BlockFacts
from autotok.pruned_spec import PrunedSpec, listed_units

from .base import Backbone, Uncut
from .wrapped import WrappedViT

B = TypeVar("B", bound=Backbone)


@dataclass(frozen=True)
class _Sliced:
    """A tensor of a block with entries per head or per MLP unit along one axis."""

    name: str
    """Below the block; 'attn' stands for what its attention is called."""
    axis: int
    of: str
    """'heads' or 'units'."""
    parts: int = 1
    """Stacked along the axis: queries, keys and values, or both halves of a gated MLP."""

    @property
    def closes(self) -> bool:
        """Whether it is the projection that reads them."""
        return self.axis == 1 and self.name.endswith(".weight")


_SLICED = (
    *(_Sliced(f"attn.qkv.{t}", 0, "heads", 3) for t in ("weight", "bias")),
    *(_Sliced(f"attn.{p}.{t}", 0, "heads") for p in ("q_proj", "k_proj", "v_proj", "gate")
      for t in ("weight", "bias")),
    *(_Sliced(f"attn.{b}", 0, "heads") for b in ("q_bias", "k_bias", "v_bias")),
    *(_Sliced(f"{p}.relative_position_bias_table", 1, "heads")
      for p in ("attn", "relative_position_bias")),
    *(_Sliced(f"mlp.{p}.{t}", 0, "units") for p in ("fc1_g", "fc1_x", "gate_proj", "up_proj")
      for t in ("weight", "bias")),
    *(_Sliced(f"attn.{p}.weight", 1, "heads") for p in ("proj", "o_proj", "out_proj")),
    *(_Sliced(f"mlp.{p}.weight", 1, "units") for p in ("fc2", "down_proj")),
)  # fmt: skip
"""Of every kind of block of timm and transformers; each has some of them."""
SHARED = ("rel_pos_bias", "shared_rel_pos", "shared_position_bias")
"""What models call a table of relative positions that all blocks read."""


def why_not_prunable(backbone: Backbone) -> str | None:
    """Why nothing can be cut out of a backbone, in words; None where it can."""
    if backbone.facts.family == "autoformer":
        return "AutoFormer's structure is chosen by the subnets of its supernet"
    if not isinstance(backbone, WrappedViT):
        return (
            "pruning knows the parts of timm's and transformers' ViTs only; load the same weights"
            " through one of them"
        )
    owner = getattr(backbone, "tower", backbone.model)
    if any(getattr(owner, name, None) is not None for name in SHARED):
        return "its blocks share one table of relative positions, with a column for every head"
    if getattr(backbone.model, "rope_mixed", False):
        return "its rotary angles are learned for every head"
    for index in range(backbone.facts.num_blocks):
        reason = _why_whole(backbone, index)
        if reason is not None:
            return f"block {index} {reason}"
    return None


def _why_whole(backbone: WrappedViT, index: int) -> str | None:
    if {item.of for item, _ in _tensors(backbone, index) if item.closes} != {"heads", "units"}:
        return "has layers of names that pruning does not know"
    block = backbone.block(index)
    attn = block.get_submodule(backbone.attention_at)
    if not isinstance(getattr(attn, "norm", nn.Identity()), nn.Identity):
        return "normalises across its heads"
    if not isinstance(getattr(block.mlp, "norm", nn.Identity()), nn.Identity):
        return "normalises across its MLP units"
    if getattr(attn, "rel_pos", None) is not None:
        return "has relative positions that are made for all of its heads at once"
    return None


def require_prunable(backbone: Backbone) -> None:
    """Raise `UnsupportedBackbone` with the reason where nothing can be cut out."""
    reason = why_not_prunable(backbone)
    if reason is not None:
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' cannot be pruned: {reason}; leave subnet at 'fixed'"
        )


def check_subnet(backbone: Backbone, spec: Subnet) -> None:
    """Raise where a structure is none of a backbone's.

    Raises:
        UnsupportedBackbone: nothing can be cut out of it.
        ConfigError: it has no such block, head or unit, or is no such subnet of a supernet.
    """
    if isinstance(spec, SubnetSpec):
        if spec != backbone.subnet:
            own = "no AutoFormer" if backbone.subnet is None else backbone.subnet.short
            raise ConfigError(
                f"subnet is one of an AutoFormer supernet ({spec.short}), and backbone"
                f" '{backbone.facts.name}' is {own}; give the one that it names"
                " (autotok.load_backbone(NAME, subnet=...)), or leave subnet out"
            )
        return
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
    if subnet is not None:
        check_subnet(backbone, subnet)
    return pruned_facts(backbone, subnet) if isinstance(subnet, PrunedSpec) else backbone.facts


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
            rows = _kept(backbone, spec, at, item, tensor)
            part = tensor.detach().index_select(item.axis, rows).clone()
            is_weight = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = (
                nn.Parameter(part, requires_grad=tensor.requires_grad) if is_weight else part
            )
    twin = copy.deepcopy(backbone, memo)
    assert isinstance(twin, WrappedViT)
    blocks: Any = twin.model.get_submodule(twin.blocks_at)
    for index in reversed(range(backbone.facts.num_blocks)):
        if index not in spec.blocks:
            del blocks[index]
    twin.facts = pruned_facts(backbone, spec)
    for block, facts in zip(blocks, twin.facts.blocks, strict=True):
        _tell_sizes(block, block.get_submodule(twin.attention_at), facts)
    twin.pruned, twin.uncut = spec, Uncut(backbone)
    return twin


def _tell_sizes(block: nn.Module, attn: Any, facts: BlockFacts) -> None:
    """What the modules say of themselves, after what they hold."""
    for name, value in (
        ("num_heads", facts.heads),
        ("num_attention_heads", facts.heads),
        ("attn_dim", facts.inner_width),
    ):
        if hasattr(attn, name):
            setattr(attn, name, value)
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
    assert isinstance(twin, WrappedViT)
    where = f"{twin.blocks_at}."
    own = dict(backbone.weights.state_dict())
    found = {name: value for name, value in own.items() if not name.startswith(where)}
    for name, value in twin.weights.state_dict().items():
        if name.startswith(where):
            found[name] = torch.zeros_like(value)
    for at, index in enumerate(spec.blocks):
        sliced = {item.name: item for item, _ in _tensors(twin, index)}
        for name, value in backbone.weights.get_submodule(f"{where}{at}").state_dict().items():
            target = found[f"{where}{index}.{name}"]
            if name in sliced:
                rows = _kept(twin, spec, at, sliced[name], target)
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


def closing(backbone: WrappedViT, index: int) -> tuple[nn.Module, nn.Module]:
    """The projections of a block that read its heads' outputs (.., H D) and its MLP units."""
    found = {item.of: item.name for item, _ in _tensors(backbone, index) if item.closes}
    block = backbone.block(index)
    heads, units = (block.get_submodule(found[of][: -len(".weight")]) for of in ("heads", "units"))
    return heads, units


def _block(backbone: Backbone, index: int) -> Any:
    assert isinstance(backbone, WrappedViT)
    return backbone.block(index)


def _tensors(backbone: Backbone, index: int) -> Iterator[tuple[_Sliced, Tensor]]:
    """The tensors of a block that pruning slices, as they are there."""
    assert isinstance(backbone, WrappedViT)
    block = backbone.block(index)
    halves = backbone.facts.blocks[index].mlp_matrices - 1
    named = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    joint = (_Sliced(f"mlp.fc1.{t}", 0, "units", halves) for t in ("weight", "bias"))
    for item in (*_SLICED, *joint):
        name = item.name.replace("attn.", f"{backbone.attention_at}.", 1)
        if name in named:
            yield dataclasses.replace(item, name=name), named[name]


def _kept(backbone: Backbone, spec: PrunedSpec, at: int, item: _Sliced, tensor: Tensor) -> Tensor:
    """(n,) what a sliced tensor of the whole keeps along its axis."""
    block, whole = backbone.facts.blocks[spec.blocks[at]], tensor.shape[item.axis] // item.parts
    if item.of == "heads":
        kept, each = torch.tensor(spec.heads[at]), whole // block.heads
    else:
        kept, each = torch.tensor(listed_units(spec.units[at])), 1
    kept = (kept[:, None] * each + torch.arange(each)).flatten()
    rows = torch.cat([kept + part * whole for part in range(item.parts)])
    return rows.to(tensor.device)
