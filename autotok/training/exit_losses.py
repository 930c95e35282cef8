"""How exits are trained: LGViT's two stages, and the plain strategies it is compared with.

Xu, Hao, Shen, Hu, Luo, Lin, Shen, "LGViT", ACM MM 2023, arXiv 2308.00255; code falcon-xu/LGViT.
Stage 1 trains everything by cross-entropies: `exits_normal`, `exits_weighted` and their alternating
forms, in which every even step learns from the final answer alone. Stage 2, `exits_distill`, trains
the heads of a frozen model by self-distillation.

Departures: the teacher's answer is the model's own, final norm included; for other than 8 exits the
first and last of either kind are compared with the final tokens, and all others with the last of
their kind; behind a reduction, terms that need the same tokens on both sides are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.methods.base import Training
from autotok.methods.registry import get_method
from autotok.tokens import Tokens

from .losses import deit_soft, soft

ALPHA, HETERO, HOMO, HEAT = 0.3, 0.01, 0.01, 2.0
"""Weights and temperature of stage 2, as in the authors' scripts."""


def check_exit_losses(config: CompressionConfig, losses: Mapping[str, float]) -> None:
    """Raise `ConfigError` where heads alone would be trained, and something else has to be too."""
    if "exits_distill" not in losses:
        return
    others = [name for name in losses if name != "exits_distill"]
    if others:
        raise ConfigError(
            f"loss 'exits_distill' trains the heads of a frozen model, so '{others[0]}' beside it"
            " trains nothing; give one of them, or exits_normal to train model and heads together"
        )
    untrained = get_method(config.method).training_need is Training.REQUIRED
    if untrained and config.reductions:
        raise ConfigError(
            f"method '{config.method}' must be trained, and loss 'exits_distill' trains the heads"
            " of a frozen model; train both together by exits_normal or exits_weighted, on"
            " labelled images"
        )


def exit_weights(name: str, exits: Sequence[int], num_blocks: int) -> tuple[list[float], float]:
    """(weight of each exit's cross-entropy, of the final one) by a strategy of stage 1.

    `exits` are their 0-based blocks; weights by depth are the blocks run up to there, so all of
    them for the end. Under `exits_weighted`, an exit at every block leaves none for the end.
    """
    number = len(exits)
    if not name.endswith("weighted"):
        return [1.0 / (number + 1)] * number, 1.0 / (number + 1)
    positions = [float(layer + 1) for layer in exits]
    last = 0.0 if name == "exits_weighted" and number == num_blocks else float(num_blocks)
    total = sum(positions) + last
    return [position / total for position in positions], last / total


def stage_one(
    name: str,
    exits: Sequence[Tensor],
    final: Tensor,
    labels: Tensor,
    *,
    layers: Sequence[int],
    num_blocks: int,
    step: int,
) -> Tensor:
    """The loss of a step of stage 1; logits (B, K) of every exit and of the end, labels (B,)."""
    if "alternating" in name and step % 2 == 0:
        return F.cross_entropy(final, labels)
    weights, last = exit_weights(name, layers, num_blocks)
    total = last * F.cross_entropy(final, labels)
    for weight, logits in zip(weights, exits, strict=True):
        total = total + weight * F.cross_entropy(logits, labels)
    return total


def gram_distance(features: Tensor, last: Tensor) -> Tensor:
    """Mean squared distance of the Gram matrices (C, C) of features (B, m, C), (B, m', C)."""
    return F.mse_loss(features.transpose(1, 2) @ features, last.transpose(1, 2) @ last)


def hetero_terms(
    kinds: Sequence[str], features: Sequence[Tensor], final: Tensor, grid: tuple[int, int]
) -> list[Tensor]:
    """First and last local exit, last and first global one, each against the final patch tokens
    (B, N, C) of the whole grid; a head that saw other tokens is left out."""
    if final.shape[1] != grid[0] * grid[1]:
        return []
    ends = [_of("local", kinds)[:1], _of("local", kinds)[-1:]]
    ends += [_of("global", kinds)[-1:], _of("global", kinds)[:1]]
    terms = []
    for number in dict.fromkeys(index for end in ends for index in end):
        step = int(kinds[number][-1]) if kinds[number].startswith("global") else 1
        goal = final.unflatten(1, grid)[:, ::step, ::step].flatten(1, 2)
        if goal.shape == features[number].shape:
            terms.append(soft(features[number], goal))
    return terms


def homo_terms(
    kinds: Sequence[str],
    features: Sequence[Tensor],
    layers: Sequence[int] = (),
    reducing: Collection[int] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """(local exits towards the last local one, global ones towards the last global one); the last
    ones get their gradient too. A local exit is left out if one of the `reducing` blocks lies
    between the two, by their `layers`: rows stand for other patches then, as many or not."""
    local, wide = _of("local", kinds), _of("global", kinds)
    first = [
        F.mse_loss(features[j], features[local[-1]])
        for j in local[:-1]
        if features[j].shape == features[local[-1]].shape
        and not any(layers[j] < block <= layers[local[-1]] for block in reducing)
    ]
    return first, [gram_distance(features[j], features[wide[-1]]) for j in wide[:-1]]


def stage_two(
    kinds: Sequence[str],
    logits: Sequence[Tensor],
    features: Sequence[Tensor],
    teacher: Tensor,
    final: Tensor,
    labels: Tensor | None,
    *,
    grid: tuple[int, int],
    layers: Sequence[int] = (),
    reducing: Collection[int] = (),
) -> Tensor:
    """The loss of a step of stage 2: sums over exits.

    Args:
        kinds: Of the heads.
        logits: (B, K) of each exit.
        features: (B, m, C) of each exit.
        teacher: (B, K), the final answer.
        final: (B, n, C), patch tokens leaving the last block, not normalised.
        labels: (B,); without, exits learn from the teacher's answer alone.
        grid: Rows and columns of the image's patches.
        layers: Of the exits.
        reducing: Blocks that reduce tokens, where any do.
    """
    near = torch.stack([deit_soft(own, teacher, temperature=HEAT) for own in logits]).sum()
    total = ALPHA * near
    if labels is not None:
        right = torch.stack([F.cross_entropy(own, labels) for own in logits]).sum()
        total = total + (1.0 - ALPHA) * right
    local, wide = homo_terms(kinds, features, layers, reducing)
    for term in [] if reducing else hetero_terms(kinds, features, final, grid):
        total = total + HETERO * term
    for term in (*local, *wide):
        total = total + HOMO * term
    return total


def _of(family: str, kinds: Sequence[str]) -> list[int]:
    """Numbers of the exits of a family of heads."""
    return [number for number, kind in enumerate(kinds) if kind.startswith(family)]


def exit_loss(
    name: str,
    student: CompressedViT,
    seen: Mapping[int, Tokens],
    left: Tokens,
    answer: Tensor,
    labels: Tensor | None,
    step: int,
) -> Tensor:
    """The loss `name` of a forward: tokens `seen` behind each block with an exit and `left` at the
    end, the final `answer` (B, K), labels (B,)."""
    exits = student.exits
    assert exits is not None
    layers = exits.policy.layers
    resting = "alternating" in name and step % 2 == 0
    with torch.set_grad_enabled(torch.is_grad_enabled() and not resting):
        read = [exits.read(number, seen[at]) for number, at in enumerate(layers)]
    logits, features = [own.float() for own, _ in read], [rows.float() for _, rows in read]
    if name == "exits_distill":
        final, kinds = left.patches.float(), exits.policy.kinds
        return stage_two(
            *(kinds, logits, features, answer, final, labels),
            grid=left.grid,
            layers=layers,
            reducing=student.schedule.by_layer.keys(),
        )
    assert labels is not None
    blocks = student.backbone.facts.num_blocks
    return stage_one(*(name, logits, answer, labels), layers=layers, num_blocks=blocks, step=step)
