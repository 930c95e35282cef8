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

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from autotok.errors import CheckpointError, UnsupportedBackbone
from autotok.facts import BackboneFacts
from autotok.pruned_spec import PrunedSpec
from autotok.tokens import Needs, Taps, Tokens, exactly

P = ParamSpec("P")
R = TypeVar("R")
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
    pruned: PrunedSpec | None = None
    """What is left of the uncompressed model, where `pruning.pruned` cut some of it out."""
    uncut: Uncut | None = None

    def embed(
        self, images: Tensor, needs: Needs = Needs.NONE, *, trace: bool = False
    ) -> tuple[Tokens, Taps]:
        """Tokens entering block 0, and the taps EMBEDDING and IMAGE if asked for.

        `images` is (B, channels, height, width), normalised as the model wants. `Tokens.coords` is
        filled when the backbone carries positions or GRID was asked for, `Tokens.source` when
        `trace` is true.
        """
        raise NotImplementedError

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

    def readout(self, tokens: Tokens) -> Tensor:
        """Logits (B, num_classes), or pooled features (B, C) of a headless model.

        Means over tokens are weighted by `tokens.size` where present and leave padding out.
        """
        raise NotImplementedError

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
        """The uncompressed backbone that this one was cut out of; itself where it was not."""
        return self if self.uncut is None else self.uncut.backbone

    def alone(self) -> Backbone:
        """The backbone itself, or a copy with its own weights where it runs on shared ones."""
        return self

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


def pool_mean(patches: Tensor, tokens: Tokens) -> Tensor:
    """(B, C) mean over patch features (B, n, C), by the tokens' size, mask and padding."""
    if tokens.size is None and tokens.mask is None and tokens.live is None:
        return patches.mean(dim=1)
    weights = patches.new_ones(patches.shape[:2])
    for factor in (tokens.size, tokens.mask, tokens.live):
        if factor is not None:
            weights = weights * factor.to(weights.dtype)
    return (patches * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode; afterwards every part of them is in the mode that it was in."""
    modes = {part: part.training for model in models for part in model.modules()}
    try:
        for model in models:
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
    if expected.shape != got.shape or not error <= allowed:
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' failed the self-test: the adapter's"
            " uncompressed output"
            f" differs from the model's own by {error:.1e} (allowed {allowed:.0e});"
            " the model does something the adapter does not know, please report it"
        )
