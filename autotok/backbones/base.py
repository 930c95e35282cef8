"""`Backbone`: the one interface between a vision transformer and the engine.

The engine's loop is the same for all of them:

    tokens, taps = backbone.embed(images)
    for i in range(num_blocks):
        branch, taps = backbone.attend(i, tokens);  x = x + branch
        branch       = backbone.feed(i, tokens);    x = x + branch
    logits = backbone.readout(tokens)

Branches come back already scaled (LayerScale, skip factors), norms included.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import SubnetSpec
from autotok.errors import CheckpointError, UnsupportedBackbone
from autotok.facts import BackboneFacts
from autotok.pruned_spec import PrunedSpec
from autotok.tokens import Needs, StemParts, Taps, Tokens, exactly, grid_coords

P = ParamSpec("P")
R = TypeVar("R")
SIZE_TABLES = "pos_embed_by_size"
"""What a model calls its position tables for images of other sides than its own, by side."""
B = TypeVar("B", bound="Backbone")
X = TypeVar("X", bound=Tensor | Tokens)


class Uncut:
    """Where a pruned backbone came from: no part of it, so neither copied nor moved with it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __deepcopy__(self, memo: dict[int, object]) -> Uncut:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Pickled, it is forgotten: the other process has the pruned model alone."""
        return type(None), ()


class Backbone(nn.Module):
    """Base of all adapters. Sub-classes set `facts` and implement the four steps."""

    facts: BackboneFacts
    prepared: Mapping[str, Any] | None = None
    """How images are prepared for it, where something else than the model tells: the fields of
    `Preprocessing` but the shape."""
    from_file = False
    """Its weights came from a file, which says nothing of how images are prepared."""
    _own_facts: BackboneFacts | None = None
    _settles = False
    _settled: Tensor | None = None
    added: Callable[[int, Tensor], tuple[Tensor, Tensor]] | None = None
    """What training adds to a block's queries and values, (B, N, H D) each, of what its attention
    reads (B, N, C): the unfolded form of weights that are folded later."""
    pruned: PrunedSpec | None = None
    """What is left of the uncompressed model, where `pruning.pruned` cut some of it out."""
    uncut: Uncut | None = None
    subnet: SubnetSpec | None = None
    """Which one of an AutoFormer supernet it is."""

    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        """Tokens entering block 0, and the taps EMBEDDING and IMAGE if asked for.

        `images` is (B, channels, height, width), normalised as the model wants, and goes through
        `fitted` first. `Tokens.coords` is
        filled when the backbone carries positions or GRID was asked for, `Tokens.source` when
        `trace` is true.
        """
        raise NotImplementedError

    def embedded(
        self,
        x: Tensor,
        images: Tensor,
        patches: Tensor,
        table: Callable[[], Tensor],
        needs: Needs,
        trace: bool,
    ) -> tuple[Tokens, Taps]:
        """What `embed` gives of tokens with positions (B, N, C) and patches without (B, n, C);
        `table` makes the patches' own rows of the position table, (N0, C)."""
        facts, batch = self.facts, x.shape[0]
        taps: dict[str, Tensor] = {}
        if needs & Needs.EMBEDDING:
            taps |= {"patch_embedding": patches, "position_table": table()}
        if needs & Needs.IMAGE:
            taps["image"] = images
        coords = source = None
        if needs & Needs.GRID or facts.carries_positions:
            coords = grid_coords(facts.grid, device=x.device).expand(batch, -1, -1)
        if trace:
            eye = torch.eye(facts.num_patches, dtype=torch.bool, device=x.device)
            source = eye.expand(batch, -1, -1)
        return Tokens(x, facts.num_prefix, facts.grid, coords=coords, source=source), Taps(taps)

    def attend(self, index: int, tokens: Tokens, needs: Needs = Needs.NONE) -> tuple[Tensor, Taps]:
        """The attention branch of block `index`, (B, N, C), and the taps asked for.

        `tokens.size`, where present, makes attention proportional (log size added to the keys'
        logits); `tokens.mask` is the softmax policy of masked training.
        """
        raise NotImplementedError

    def scout(self, index: int, tokens: Tokens, needs: Needs) -> Taps:
        """NORMED, KEYS, QUERIES and VALUES that block `index` would have of these tokens.

        For methods that choose before a block; costs the norm and the projections asked for.
        """
        raise NotImplementedError

    def feed(self, index: int, tokens: Tokens) -> Tensor:
        """The MLP branch of block `index`, (B, N, C)."""
        raise NotImplementedError

    def token_features(self, tokens: Tokens) -> Tensor:
        """(B, N, C) of tokens that left the last block, as the last norm leaves them; as they are
        where there is none."""
        return tokens.x

    def readout(self, tokens: Tokens) -> Tensor:
        """Logits (B, num_classes), or pooled features (B, C) of a headless model.

        Means over tokens are weighted by `tokens.size` where present and leave padding out.
        """
        raise NotImplementedError

    def stem_parts(self) -> StemParts:
        """What makes tokens of an image, part by part; for backbones with `facts.plain_stem`."""
        raise UnsupportedBackbone(
            f"backbone '{self.facts.name}' makes its tokens in a way of its own, so they cannot be"
            " made part by part; use a plain ViT or DeiT from timm"
        )

    def qkv_weights(self, index: int) -> tuple[Tensor, ...]:
        """Block `index`'s own projection to queries, keys and values: a joint one (3 H D, C) in
        that order, or one each, as parameters; () where it has none of its own."""
        return ()

    def with_added(self, index: int, normed: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and values (B, H, N, D), with what `added` adds, if anything."""
        if self.added is None:
            return q, v
        dq, dv = (d.unflatten(-1, (-1, q.shape[-1])) for d in self.added(index, normed))
        return q + dq.transpose(1, 2), v + dv.transpose(1, 2)

    def unused(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules, with their names, that are never called themselves: the four steps run their
        parts, or read their weights, so hooks on them stay silent."""
        return iter(())

    @property
    def weights(self) -> nn.Module:
        """The module whose weight names others know: the wrapped model, where there is one."""
        return self

    @property
    def whole(self) -> Backbone:
        """The uncompressed backbone at its own image size: itself, unless it was cut out of that,
        or runs on another size."""
        return self.at_size(None) if self.uncut is None else self.uncut.backbone.whole

    def alone(self) -> Backbone:
        """The backbone itself, or a copy with its own weights where it runs on shared ones."""
        return self

    # --- images of another size

    @property
    def own_facts(self) -> BackboneFacts:
        """The facts at the model's own image size, whatever size this adapter runs."""
        return self._own_facts or self.facts

    def at_size(self: B, side: int | None) -> B:
        """An adapter of the same weights (not a copy) that runs on square images of `side` pixels.

        It resizes images of any size itself. None, and the size that this one has, give itself.

        Raises:
            ConfigError: see `BackboneFacts.at_size`.
        """
        own = self.own_facts
        facts = own.at_size(side)
        if facts == self.facts:
            return self
        twin = copy.copy(self)
        for name in ("_parameters", "_buffers", "_modules"):  # as replicas of torch do
            setattr(twin, name, getattr(self, name).copy())
        twin.facts, twin._own_facts, twin._settled = facts, own, None
        twin.take_tables()
        return twin

    @property
    def is_resized(self) -> bool:
        """Whether it runs on images of another size than the model's own."""
        return self._own_facts is not None and self.facts != self._own_facts

    def take_tables(self) -> None:
        """Keep what blocks look up over the grid; asked for anew at every other size."""

    def fitted(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) at the size that this adapter was made for by `at_size`."""
        return shrunk(images, self.facts.image_shape[1] if self.is_resized else None)

    def placed_at_size(self, table: Tensor) -> Tensor:
        """(1, P + N0, C), the position table on this adapter's grid: the model's own for this size
        if it has one (`size_tables`), else that of its own size, resampled."""
        if not self.is_resized:
            return table
        learned: nn.ParameterDict | None = getattr(self.weights, SIZE_TABLES, None)
        side = str(self.facts.image_shape[1])
        if learned is not None and side in learned:
            return cast(Tensor, learned[side])
        if self._settled is None or not self._settles:
            found = resampled_positions(table, self.own_facts.grid, self.facts.grid)
            self._settled = found.detach() if self._settles else None
            return found
        return self._settled

    def settle(self) -> None:
        """From now on the resampled position table is a constant, as exported graphs want it."""
        if self.is_resized:
            self._settles = True
            like = next(self.parameters())
            self.embed(torch.zeros(1, *self.facts.image_shape, dtype=like.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """The uncompressed model, run through the same four steps."""
        return self.readout(self.run_blocks(self.embed(images)[0]))

    def run_blocks(self, tokens: Tokens, start: int = 0, stop: int | None = None) -> Tokens:
        """Tokens after blocks [start, stop), all of them by default, none removed."""
        for index in range(start, self.facts.num_blocks if stop is None else stop):
            branch, _ = self.attend(index, tokens)
            tokens = tokens.with_x(tokens.x + branch)
            tokens = tokens.with_x(tokens.x + self.feed(index, tokens))
        return tokens


def in_full(step: Callable[Concatenate[B, X, P], R]) -> Callable[Concatenate[B, X, P], R]:
    """An embedding or a read-out that keeps the precision of what it is given (`exactly`)."""

    @functools.wraps(step)
    def run(self: B, given: X, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with exactly(given.x if isinstance(given, Tokens) else given):
            return step(self, given, *args, **kwargs)

    return run


def shrunk(images: Tensor, side: int | None) -> Tensor:
    """Images (B, C, H, W) as squares of `side` pixels; None, and that size, leave them alone.

    Bilinear, corners on corners, no antialiasing: as SuperViT (arXiv 2205.11397) and CF-ViT
    (2203.03821) shrink what they are given.
    """
    if side is None or tuple(images.shape[2:]) == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)


def repeated(images: Tensor, number: int) -> Tensor:
    """(number, C, H, W): the first images, from the beginning again where there are fewer."""
    return images[torch.arange(number) % len(images)]


def resampled_positions(table: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """(1, P + N0, C) position table on another grid; rows of prefix tokens stay.

    Bicubic and antialiased, in float32, as timm's `resample_abs_pos_embed`.
    """
    prefix = table.shape[1] - own[0] * own[1]
    rows = table[:, prefix:].unflatten(1, own).permute(0, 3, 1, 2).float()
    rows = F.interpolate(rows, size=grid, mode="bicubic", antialias=True)
    patches = rows.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[:, :prefix], patches], dim=1)


def pool_mean(patches: Tensor, tokens: Tokens) -> Tensor:
    """(B, C) mean over patch features (B, n, C), by the tokens' size, mask and padding; zeros for
    an image that has none left."""
    if tokens.size is None and tokens.mask is None and tokens.live is None:
        return patches.mean(dim=1) if patches.shape[1] else patches.sum(dim=1)
    weights = patches.new_ones(patches.shape[:2])
    for factor in (tokens.size, tokens.mask, tokens.live):
        if factor is not None:
            weights = weights * factor.to(weights.dtype)
    total = weights.sum(dim=1, keepdim=True)
    if tokens.live is not None:
        total = total.clamp_min(torch.finfo(total.dtype).tiny)
    shares = weights / total  # first: sums may leave float16's range
    return (patches * shares.unsqueeze(-1)).sum(dim=1)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode; afterwards every part of them is in the mode that it was in."""
    parts = [part for model in models for part in model.modules()]
    modes = {part: part.training for part in parts if hasattr(part, "training")}
    try:
        for model in models:
            if model in modes:  # a frozen TorchScript has no mode
                model.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def left_alone(verb: Callable[P, R]) -> Callable[P, R]:
    """The verb, which leaves the models that it is given alone."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with leaving_alone(*args, *kwargs.values()):
            return verb(*args, **kwargs)

    return run


@contextmanager
def leaving_alone(*given: object) -> Iterator[None]:
    """The models among what is given in evaluation mode, and free to be moved; afterwards they are
    in their mode and on their device again."""
    models = [value for value in given if isinstance(value, nn.Module)]
    homes = [next((p.device for p in model.parameters()), None) for model in models]
    try:
        with evaluating(*models):
            yield
    finally:
        for model, home in zip(models, homes, strict=True):
            if home is not None and home != next(model.parameters()).device:
                model.to(home)


@torch.no_grad()
def prove(backbone: Backbone, model: nn.Module, *, tolerance: float = 1e-4) -> None:
    """Check that the adapter's uncompressed forward equals `model(images)` on random input.

    Raises:
        CheckpointError: the model's own outputs are not finite.
        UnsupportedBackbone: the outputs differ by more than `tolerance` (relative to their scale).
    """
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, *backbone.facts.image_shape, generator=generator)
    images = images.to(parameter.device, parameter.dtype)
    if images.is_meta:
        return
    with evaluating(backbone, model):
        expected, got = model(images), backbone(images)
    if not bool(torch.isfinite(expected).all()):
        raise CheckpointError(
            f"backbone '{backbone.facts.name}' gives outputs that are not finite, so its weights"
            " are damaged; fetch or train them again"
        )
    error = (expected - got).abs().max().item() / max(1.0, expected.abs().max().item())
    allowed = tolerance if parameter.dtype == torch.float32 else 100 * tolerance
    classes, width = backbone.facts.num_classes, expected.shape[-1]
    if classes and width != classes:
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' says it has {classes} classes and gives {width}"
            f" outputs; set model.num_classes, or config.num_labels of transformers, to {width}, or"
            " for features take the model without its head"
        )
    if expected.shape != got.shape or not error <= allowed:
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' failed the self-test: the adapter's"
            " uncompressed output"
            f" differs from the model's own by {error:.1e} (allowed {allowed:.0e});"
            " the model does something the adapter does not know, please report it"
        )
