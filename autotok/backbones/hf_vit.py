"""ViTs of Hugging Face transformers: towers of `hf_layouts`, and the heads that stand on them.

In goes `pixel_values`, out comes the one tensor that a model is asked for (`logits`,
`image_embeds`, the pooled features); `answer` gives the model's own output class instead.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from autotok.tokens import Tokens

from .base import evaluating, in_full, pool_mean, prove
from .full_length import at_full_length
from .hf_facts import hf_facts, sides_of
from .hf_layouts import LAYOUTS, MODELS, PREFIX, TowerLayout
from .wrapped import BlockParts, WrappedViT, pooling_bias, unchanged


class HFViT(WrappedViT):
    """Runs a ViT of transformers, whatever head it has."""

    turns_halves = True
    table: Tensor | None
    """(N0, 2 D), DINOv3's rotary sines and cosines."""
    pairs: Tensor | None
    """(P + N0, P + N0), which entry of BEiT's tables belongs to a pair of places."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        label = name or f"{PREFIX}{type(model).__name__}"
        self.own = MODELS[type(model).__name__]
        tower: Any = model.get_submodule(self.own.tower)
        self.layout = LAYOUTS[tower.config.model_type]
        self.blocks_at = ".".join(filter(None, (self.own.tower, self.layout.blocks)))
        self.attention_at = self.layout.attention
        super().__init__(model, hf_facts(model, tower, label, image_size))
        self._given = dict(preprocessing or {})
        self.take_tables()
        prove(self, _Primary(self))

    @property
    def tower(self) -> Any:
        """The transformer below the head."""
        return self.model.get_submodule(self.own.tower)

    def entering(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = images.to(self.tower.get_submodule(self.layout.stem).weight.dtype)
        return self.tower.embeddings(pixels, **self.resampling()), None

    def resampling(self) -> dict[str, bool]:
        """What the model has to be told where its position table is resampled."""
        unasked = not self.layout.table or type(self.tower.embeddings).__name__.startswith("Dinov2")
        return {} if unasked or not self._is_resized() else {"interpolate_pos_encoding": True}

    def before_blocks(self, x: Tensor) -> Tensor:
        name = self.layout.pre_norm
        return cast(Tensor, getattr(self.tower, name)(x)) if name else x

    def position_table(self) -> Tensor:
        found: Any = self.tower.embeddings
        if self._is_resized():
            probe = torch.empty(1, self.facts.num_patches + self._positions_before(), 1)
            height, width = self.facts.image_shape[1:]
            found = found.interpolate_pos_encoding(
                probe.expand(-1, -1, self.facts.blocks[0].width), height, width
            )
        else:
            found = _table_of(self.tower, self.layout)
        return cast(Tensor, found.reshape(-1, found.shape[-1])[-self.facts.num_patches :])

    def parts(self, block: Any) -> BlockParts:
        layout, attn = self.layout, getattr(block, self.layout.attention)

        def scaled(branch: Tensor, which: int) -> Tensor:
            branch = getattr(block, "dropout", unchanged)(branch)
            scale = getattr(block, layout.scales[which]) if layout.scales[which] else 1.0
            branch = scale(branch) if callable(scale) else branch * scale
            return cast(Tensor, getattr(block, "drop_path", unchanged)(branch))

        first, second = (getattr(block, name) for name in layout.norms)
        project = getattr(attn, layout.out)
        return BlockParts(
            norm=first,
            qkv=(attn.q_proj, attn.k_proj, attn.v_proj),
            head_dim=attn.head_dim,
            out=lambda heads, gate: scaled(project(heads), 0),
            feed=lambda x: scaled(block.mlp(second(x)), 1),
        )

    def angles(self, index: int) -> Tensor | None:
        return self.table

    def bias(self, index: int) -> Tensor | None:
        return None if self.pairs is None else self._of(self.block(index).relative_position_bias)

    def shared_bias(self) -> Tensor | None:
        return None if self.pairs is None else self._of(self.tower.shared_position_bias)

    def _of(self, owner: Any) -> Tensor | None:
        """What a table of offsets adds between the places of the grid; None without a table."""
        if owner is None:
            return None
        return cast(Tensor, owner.relative_position_bias_table[self.pairs].permute(2, 0, 1))

    # --- what comes out

    @in_full
    def token_features(self, tokens: Tokens) -> Tensor:
        final = self.layout.final
        return cast(Tensor, getattr(self.tower, final)(tokens.x)) if final else tokens.x

    @in_full
    def readout(self, tokens: Tokens) -> Tensor:
        return self._primary(self._fields(tokens))

    @in_full
    def answer(self, tokens: Tokens) -> Any:
        """The model's own output of tokens that left the last block.

        Where their `source` is traced, hidden states are put back to full length: each patch has
        those of the token that holds it, zeros where none does.
        """
        fields = self._fields(tokens)
        hidden = fields.get("last_hidden_state")
        if hidden is not None and tokens.source is not None:
            fields["last_hidden_state"] = at_full_length(hidden, tokens)
        return self._in_own_class(fields)

    def own_output(self, answer: Tensor) -> Any:
        """The model's own output that holds nothing but the tensor that it is asked for."""
        return self._in_own_class({self.own.primary: answer})

    def _in_own_class(self, fields: Mapping[str, Tensor | None]) -> Any:
        kind = getattr(sys.modules[type(self.model).__module__], self.own.output)
        return kind(**fields)

    def _primary(self, fields: Mapping[str, Tensor | None]) -> Tensor:
        """The one tensor that the model is asked for."""
        found = fields.get(self.own.primary)  # outputs of transformers leave out what is None
        if found is None:  # a model made without its pooler
            found = cast(Tensor, fields["last_hidden_state"])[:, 0]
        return found

    def _fields(self, tokens: Tokens) -> dict[str, Tensor | None]:
        """The fields of the model's output."""
        model, tower, normed = self.model, self.tower, self.token_features(tokens)
        patches, pooling = normed[:, tokens.num_prefix :], self.facts.pooling
        if self.own.primary == "logits" and pooling == "cls+dist":
            heads = (model.cls_classifier, model.distillation_classifier)
            both = [head(normed[:, i]) for i, head in enumerate(heads)]
            logits = (both[0] + both[1]) / 2
            return {"logits": logits, "cls_logits": both[0], "distillation_logits": both[1]}
        if self.own.primary == "logits" and pooling == "cls+mean":
            pooled = torch.cat([normed[:, 0], pool_mean(patches, tokens)], dim=1)
            return {"logits": model.classifier(pooled)}
        if self.own.primary == "logits":
            return {"logits": model.classifier(_pooled(tower, normed, tokens, pooling))}
        features = _own_pooled(tower, normed, tokens, pooling)
        if self.own.primary == "image_embeds":
            return {"image_embeds": model.visual_projection(features), "last_hidden_state": normed}
        return {"last_hidden_state": normed, "pooler_output": features}

    # --- what is known of it

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's own, where its configuration names them; else ()."""
        names = getattr(self.model.config, "id2label", None) or {}
        listed = tuple(str(names[i]) for i in range(self.facts.num_classes) if i in names)
        made_up = all(label == f"LABEL_{i}" for i, label in enumerate(listed))
        return () if made_up or len(listed) != self.facts.num_classes else listed

    def preprocessing(self) -> dict[str, Any]:
        """As its own file says; without one, the family's means and a crop of seven eighths."""
        told = {"mean": self.layout.mean, "std": self.layout.std, **self._given}
        sides = told.get("resize")
        if sides and round(sides[0] * told["crop_pct"]) != self.own_facts.image_shape[1]:
            del told["resize"]  # of another size: the same share of that
        return told

    def take_tables(self) -> None:
        tower, table, pairs = self.tower, None, None
        if hasattr(tower, "rope_embeddings"):
            like = next(tower.parameters())
            pixels = torch.empty(1, *self.facts.image_shape, dtype=like.dtype, device=like.device)
            with evaluating(tower.rope_embeddings):  # in training they are shaken
                cosines, sines = tower.rope_embeddings(pixels)
            table = torch.cat([sines, cosines], dim=-1).detach().clone()
        tables = [*_biases(self), getattr(tower, "shared_position_bias", None)]
        owner = next((found for found in tables if found is not None), None)
        if owner is not None:
            # past the cache of transformers, which another model may have filled on another device
            index = inspect.unwrap(owner.generate_relative_position_index)
            with owner.relative_position_bias_table.device:
                pairs = index(self.facts.grid)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("pairs", pairs, persistent=False)

    def _is_resized(self) -> bool:
        return self.facts.image_shape[1:] != sides_of(self.tower.config.image_size)

    def _positions_before(self) -> int:
        """Prefix tokens that have a position of their own."""
        rows = math.prod(_table_of(self.tower, self.layout).shape[:-1])
        height, width = sides_of(self.tower.config.image_size)
        rows -= (height // self.facts.patch_size[0]) * (width // self.facts.patch_size[1])
        return rows


class _Primary(nn.Module):
    """The model itself, giving the one tensor that it is asked for."""

    def __init__(self, adapter: HFViT) -> None:
        super().__init__()
        self.model = adapter.model
        self._adapter = (adapter,)  # not a part of this

    def forward(self, images: Tensor) -> Tensor:
        adapter = self._adapter[0]
        return adapter._primary(self.model(images, **adapter.resampling()))


def _own_pooled(tower: Any, normed: Tensor, tokens: Tokens, pooling: str) -> Tensor | None:
    """What the tower itself calls pooled; None for one without."""
    if hasattr(tower, "post_layernorm") and not hasattr(tower, "use_head"):  # CLIP
        return cast(Tensor, tower.post_layernorm(normed[:, 0]))
    if getattr(tower, "pooler", unchanged) is None:
        return None
    dense = hasattr(getattr(tower, "pooler", None), "dense")
    return cast(Tensor, tower.pooler(normed)) if dense else _pooled(tower, normed, tokens, pooling)


def _pooled(tower: Any, normed: Tensor, tokens: Tokens, pooling: str) -> Tensor:
    """(B, C) of normed tokens, merged ones counting as often as they hold patches."""
    if pooling == "cls":
        return normed[:, 0]
    if pooling == "map":
        return _attended(tower.head, normed, tokens)
    pooled = pool_mean(normed[:, tokens.num_prefix :], tokens)
    norm = getattr(getattr(tower, "pooler", None), "layernorm", None)  # BEiT
    return pooled if norm is None else cast(Tensor, norm(pooled))


def _attended(head: Any, normed: Tensor, tokens: Tokens) -> Tensor:
    """SigLIP's pooling by attention of one learned query."""
    seen = pooling_bias(tokens, normed.dtype, prefix=True)
    mask = None if seen is None else seen[:, 0, 0]
    query = head.probe.expand(normed.shape[0], -1, -1)
    found = head.attention(query, normed, normed, key_padding_mask=mask)[0]
    return cast(Tensor, (found + head.mlp(head.layernorm(found)))[:, 0])


def _table_of(tower: Any, layout: TowerLayout) -> Tensor:
    owner, _, name = layout.table.rpartition(".")
    found: Any = getattr(tower.get_submodule(owner), name)
    return found.weight if isinstance(found, nn.Embedding) else found


def _biases(adapter: HFViT) -> list[Any]:
    blocks = (adapter.block(index) for index in range(adapter.facts.num_blocks))
    return [getattr(block, "relative_position_bias", None) for block in blocks]
