"""`Importance`: how much the output of a ViT depends on each head, MLP unit and block.

Every head, unit and block gets a gate of 1, and one pass over images gives the gradient of the
output with respect to all gates at once. The squared first-order Taylor term, (gate * gradient)^2
averaged over images, is the criterion of Molchanov et al., "Importance Estimation for Neural
Network Pruning" (CVPR 2019, arXiv:1906.10771). Nothing is labelled: what must not change is the
uncompressed model's own prediction. The divergence from itself has no gradient, for it is at its
minimum; so the logits are read in a random direction of covariance diag(p) - pp', with which the
mean of the squared gradient is the second derivative of that divergence (the Fisher information).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotok.plain_data import plain_fields

from .base import Backbone, evaluating
from .pruning import closing, require_prunable
from .wrapped import WrappedViT

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Importance:
    """Per block; what is 0 can go without a change of the output, to first order."""

    heads: Rows
    units: Rows
    blocks: tuple[float, ...]
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain_fields(self)


@dataclass(frozen=True)
class _Gates:
    """Of one block, (B, 1, H), (B, 1, hidden) and (B, 1, 1), all 1: of each image its own, so that
    one backward pass gives the gradient of every image alone."""

    heads: Tensor
    units: Tensor
    block: Tensor


def importance_of(backbone: Backbone, batches: Iterable[Tensor], *, seed: int = 0) -> Importance:
    """How much each part of a backbone matters on images, the same for the same seed.

    Args:
        batches: (B, C, H, W) each, normalised.
        seed: Of the directions that outputs are read in.

    Raises:
        UnsupportedBackbone: nothing can be cut out of the backbone.
    """
    require_prunable(backbone)
    assert isinstance(backbone, WrappedViT)
    generator = torch.Generator().manual_seed(seed)
    sums: list[Tensor] = []
    num_images = 0
    with evaluating(backbone), torch.enable_grad():
        for images in batches:
            squares = [g.square().sum(dim=(0, 1)) for g in _gradients(backbone, images, generator)]
            sums = [a + b for a, b in zip(sums, squares, strict=True)] if sums else squares
            num_images += len(images)
    means = [tuple(_rounded(x / num_images)) for x in sums]
    return Importance(
        tuple(means[0::3]), tuple(means[1::3]), tuple(m[0] for m in means[2::3]), num_images
    )


def _rounded(values: Tensor) -> list[float]:
    """To seven digits, which is what a file of them keeps."""
    return [float(f"{value:.6e}") for value in values.double().tolist()]


def _gradients(
    backbone: WrappedViT, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """The gradients of all gates, three per block, in double precision."""
    like, facts = next(backbone.parameters()), backbone.facts
    images = images.to(like)
    gates = [
        _Gates(*(images.new_ones(len(images), 1, n).requires_grad_() for n in sizes))
        for sizes in ((block.heads, block.hidden, 1) for block in facts.blocks)
    ]
    tokens, _ = backbone.embed(images)
    for index, gate in enumerate(gates):
        with _gated(closing(backbone, index), gate, facts.blocks[index].head_dim):
            branch, _ = backbone.attend(index, tokens)
            tokens = tokens.with_x(tokens.x + branch * gate.block)
            tokens = tokens.with_x(tokens.x + backbone.feed(index, tokens) * gate.block)
    outputs = backbone.readout(tokens)
    read = (outputs * _directions(outputs, facts.num_classes, generator)).sum()
    wanted = [g for gate in gates for g in (gate.heads, gate.units, gate.block)]
    return tuple(g.detach().double().cpu() for g in torch.autograd.grad(read, wanted))


def _directions(outputs: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """(B, K) of covariance diag(p) - pp'; of a headless model's features, the unit matrix."""
    # image by image: together, few numbers are drawn in another order than many
    drawn = [torch.randn(outputs.shape[1], generator=generator) for _ in outputs]
    noise = torch.stack(drawn).to(outputs)
    if not classes:
        return noise
    p = outputs.detach().softmax(dim=-1)
    root = p.sqrt()
    return root * noise - p * (root * noise).sum(dim=-1, keepdim=True)


@contextmanager
def _gated(layers: tuple[nn.Module, nn.Module], gates: _Gates, head_dim: int) -> Iterator[None]:
    """While open, what both layers read, heads' outputs and the MLP's inner units, is gated."""

    def through(gate: Tensor) -> Callable[[nn.Module, Sequence[Tensor]], tuple[Tensor, ...]]:
        return lambda module, args: (args[0] * gate,)

    wide = gates.heads.repeat_interleave(head_dim, dim=-1)
    hooks = [
        layer.register_forward_pre_hook(through(gate))
        for layer, gate in zip(layers, (wide, gates.units), strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
