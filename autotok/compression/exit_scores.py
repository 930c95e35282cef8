"""All exits of all images in one pass, and the threshold that meets a mean cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotok.backbones.base import evaluating
from autotok.errors import ConfigError
from autotok.methods.primitives import confidence

from .exit_rules import entropy, first_exits
from .model import CompressedViT
from .schedule import is_adaptive
from .tap_request import BlockCounts, TapRequest


@dataclass(frozen=True)
class ExitScores:
    """What every exit and the end say of images, whether they would have stopped before or not."""

    logits: Tensor  # (E, B, K)
    final: Tensor  # (B, K)
    rows: Tensor  # (E, B) int64, patch tokens that each head's products ran over
    watch: TapRequest  # with live counts of every block

    @classmethod
    def joined(cls, parts: Sequence[ExitScores]) -> ExitScores:
        """Of one image after the other, on the CPU; the tokens that heads read are let go."""
        counts = {
            layer: BlockCounts(
                *(
                    torch.cat([getattr(part.watch.counts[layer], name).cpu() for part in parts])
                    for name in ("entering", "attention", "mlp")
                )
            )
            for layer in parts[0].watch.counts
        }
        return cls(
            torch.cat([part.logits.cpu() for part in parts], dim=1),
            torch.cat([part.final.cpu() for part in parts]),
            torch.cat([part.rows.cpu() for part in parts], dim=1),
            TapRequest(counting=True, counts=counts),
        )

    def of(self, numbers: Sequence[int]) -> ExitScores:
        """Of some of the exits alone, in their order."""
        chosen = list(numbers)
        return dataclasses.replace(self, logits=self.logits[chosen], rows=self.rows[chosen])

    def chosen(self, model: CompressedViT) -> tuple[Tensor, Tensor]:
        """(number of the exit each image stops at, -1 for none (B,); the answers (B, K))."""
        assert model.exits is not None
        number = first_exits(model.exits.policy, self.logits)
        everything = torch.cat([self.logits.to(self.final.dtype), self.final.unsqueeze(0)])
        return number, everything[number, torch.arange(len(number), device=number.device)]


def score_exits(model: CompressedViT, images: Tensor) -> ExitScores:
    """Every head's answer on images (B, channels, height, width), none of which stops."""
    exits = model.exits
    assert exits is not None
    padded, after = not is_adaptive(model.config), frozenset(exits.policy.layers)
    watch = TapRequest(after=after, counting=True, with_padding=padded)
    tokens = model.forward_tokens(images, watch=watch)
    seen = [watch.tokens[layer] for layer in exits.policy.layers]
    logits = [exits.read(number, own)[0] for number, own in enumerate(seen)]
    rows = [exits.head(n).rows(own, with_padding=padded) for n, own in enumerate(seen)]
    final = model.backbone.readout(tokens)
    return ExitScores(torch.stack(logits), final, torch.stack(rows), watch)


def threshold_meeting(
    scores: NDArray[np.float64],
    costs: NDArray[np.int64],
    mean_macs: float,
    *,
    criterion: str = "confidence",
) -> float:
    """The threshold under which images cost `mean_macs` on average, or as close below as it goes.

    Mean cost never falls as a confidence threshold rises (never rises, for an entropy), so the
    values that were observed are bisected.

    Args:
        scores: (E, B) confidence or entropy at each exit.
        costs: (B, E + 1) multiply-accumulates of stopping at each exit, and at the end.

    Raises:
        ConfigError: no threshold costs so little, or so much.
    """
    sign = 1.0 if criterion == "confidence" else -1.0
    sure = sign * scores  # surer is higher
    levels = np.concatenate([[-np.inf], np.unique(sure)])

    def mean(level: float) -> float:
        return float(stopped_macs(sure, costs, level).mean())

    low, high = mean(levels[0]), mean(levels[-1])
    if not low <= mean_macs <= high:
        raise ConfigError(
            f"a mean cost of {mean_macs / 1e9:.4g} GFLOPs cannot be met by these exits; feasible:"
            f" {low / 1e9:.4g} to {high / 1e9:.4g}"
        )
    first, last = 0, len(levels) - 1
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if mean(levels[middle]) <= mean_macs else (first, middle - 1)
    level = levels[first]
    if np.isinf(level):  # everybody stops at once
        return -1.0 if sign > 0 else float(np.max(scores)) + 1.0
    return float(sign * level)


def stopped_macs(
    scores: NDArray[np.float64],
    costs: NDArray[np.int64],
    threshold: float,
    *,
    criterion: str = "confidence",
) -> NDArray[np.int64]:
    """(B,) multiply-accumulates of images under a threshold; arguments as in `threshold_meeting`.

    An image stops where its confidence exceeds the threshold, or its entropy is below it.
    """
    stopped = scores > threshold if criterion == "confidence" else scores < threshold  # (E, B)
    first = np.where(stopped.any(axis=0), stopped.argmax(axis=0), len(scores))
    spent: NDArray[np.int64] = costs[np.arange(len(costs)), first]
    return spent


def sureness(model: CompressedViT, scores: ExitScores) -> NDArray[np.float64]:
    """(E, B) of what the criterion compares with its threshold.

    Raises:
        ConfigError: the criterion is not that of one threshold.
    """
    assert model.exits is not None
    criterion = model.exits.policy.criterion
    if criterion not in ("confidence", "entropy"):
        raise ConfigError(
            f"exit criterion '{criterion}' cannot be calibrated to a mean cost; choose confidence"
            " or entropy"
        )
    found = confidence(scores.logits) if criterion == "confidence" else entropy(scores.logits)
    values: NDArray[np.float64] = found.double().cpu().numpy()
    return values


@torch.no_grad()
def recorded_exits(model: CompressedViT, batches: Iterable[Tensor]) -> ExitScores:
    """`score_exits` of all images of `batches` (tensors (B, C, H, W)), whatever mode the model is
    in: once recorded, what any threshold costs and answers is arithmetic."""
    like = next(model.parameters())
    with evaluating(model):
        return ExitScores.joined(
            [ExitScores.joined([score_exits(model, images.to(like))]) for images in batches]
        )
