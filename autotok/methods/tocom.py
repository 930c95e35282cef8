"""ToCom: a few low-rank weights let a model trained at one degree of merging run at another.

Jie, Tang, Guo, Deng, Han, Wang, "Token Compensator: Altering Inference Cost of Vision Transformer
without Re-Tuning", ECCV 2024, arXiv 2408.06798; code JieShibo/ToCom.

Tokens merge as in ToMe. Beside it, adapters of every block, learned once per pre-trained model by
distillation between random pairs of degrees (`autotok adapters`, `autotok.train_adapters`), say
what changes in queries and values from each degree to the next: 16 groups of hidden units, of which
those between the *source* (the degree of the weights) and the *target* (the degree asked for) act.
They are linear, so they fold into the weights, exactly, and what runs is ToMe.

Departures: the target is read off the schedule. One removed in every block alike (up to the
authors' clamp at half of the tokens) is its r, on other grids and depths rescaled so that degree 16
removes nearly all (`rescaled`); any other schedule is the degree of the uniform one of equal cost,
interpolated, the boundary group weighted by the fraction. That last is ours and not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.config import Options
from autotok.errors import CheckpointError, ConfigError
from autotok.facts import BackboneFacts

from .base import Option
from .folding import Folding, WeightFold
from .registry import register
from .tome import ToMe

DEGREES = 16
"""The highest degree: 16 of DeiT's 196 patch tokens go in each of its 12 blocks."""
NAME = "blocks.{}.attn.{}_tocom.adapter_{}.weight"
"""The authors', of block, `q` or `v`, and `down` or `up`."""


@register("tocom")
class ToCom(Folding, ToMe):
    """ToMe on weights that are compensated for the degree they were not trained at."""

    title = "ToCom (ECCV 2024)"
    options = (
        *ToMe.options,
        Option(
            "source_degree",
            0,
            "degree the weights were fine-tuned at",
            low=0,
            high=DEGREES,
            model_wide=True,
        ),
        Option(
            "scale",
            0.1,
            "weight of the compensation",
            low=0.0,
            high=0.3,
            search=True,
            model_wide=True,
        ),
        Option("group_width", 2, "hidden units per degree", low=1, high=64, model_wide=True),
        Option(
            "rescaled",
            True,
            "degrees count shares of the grid, not tokens, off DeiT's shape",
            model_wide=True,
        ),
        Option("adapters", "", "file of the adapters; without one it is tome", model_wide=True),
        Option("adapters_sha256", "", "first digits of what that file must be", model_wide=True),
    )

    @classmethod
    def weight_fold(
        cls,
        facts: BackboneFacts,
        kept: Mapping[int, int],
        options: Options,
        tensors: Mapping[str, Tensor],
    ) -> WeightFold | None:
        width, source = int(options["group_width"]), float(options["source_degree"])
        adapters = Adapters.read(
            facts, tensors, group_width=width, source=f"'{options['adapters']}'"
        )
        target = target_degree(facts, kept, rescaled=bool(options["rescaled"]))
        if target == source or options["scale"] == 0:
            return None
        return adapters.between(source, target, scale=float(options["scale"]))

    @classmethod
    def told_by(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> dict[str, int | float]:
        down = tensors.get(NAME.format(0, "q", "down"))
        width = {} if down is None else {"group_width": max(1, down.shape[0] // DEGREES)}
        return width | ({"scale": float(metadata["scale"])} if "scale" in metadata else {})


@dataclass(frozen=True)
class Compensation(WeightFold):
    """Adapters at work between two degrees."""

    adapters: Adapters
    masks: Tensor
    """(L, h), the target's less the source's, per block."""
    scale: float

    def fold(self, layer: int, qkv_weight: Tensor, width: int) -> Tensor:
        rows = qkv_weight.shape[0] // 3
        folded = qkv_weight.clone()
        mask = self.masks[layer].to(qkv_weight)
        units = mask.nonzero()[:, 0]  # the others add nothing
        weights = self.scale * mask[units]
        for part, first in (("q", 0), ("v", 2 * rows)):
            down, up = self.adapters.pair(layer, part)
            added = (up[:, units].to(qkv_weight) * weights) @ down[units].to(qkv_weight)
            folded[first : first + rows] += added
        return folded

    def added(self, layer: int, normed: Tensor, *, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """What the unfolded form adds to queries and values, (B, N, H D) each, of what attention
        reads, (B, N, C); for training, with dropout of the hidden units before the mask."""
        changes = []
        for part in "qv":
            down, up = self.adapters.pair(layer, part)
            hidden = F.dropout(F.linear(normed, down), dropout, training=dropout > 0)
            hidden = hidden * self.masks[layer].to(hidden)
            changes.append(self.scale * F.linear(hidden, up))
        return changes[0], changes[1]


class Adapters(nn.Module):
    """The adapters of every block, under dotless copies of their authors' names."""

    def __init__(self, facts: BackboneFacts, *, group_width: int, seed: int = 0) -> None:
        super().__init__()
        self.group_width, hidden = group_width, DEGREES * group_width
        self.weights = nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)
        for layer, block in enumerate(facts.blocks):
            bound = block.width**-0.5  # torch's own for a Linear
            for part in "qv":
                down = torch.empty(hidden, block.width).uniform_(-bound, bound, generator=generator)
                self.weights[_key(layer, part, "down")] = nn.Parameter(down)
                up = torch.zeros(block.inner_width, hidden)
                self.weights[_key(layer, part, "up")] = nn.Parameter(up)

    @classmethod
    @torch.no_grad()
    def read(
        cls,
        facts: BackboneFacts,
        tensors: Mapping[str, Tensor],
        *,
        group_width: int,
        source: str = "the adapters",
    ) -> Adapters:
        """Adapters of a file; what else it holds is passed over.

        Raises:
            CheckpointError: one is missing, has another shape, or holds no numbers.
        """
        made = cls(facts, group_width=group_width)
        for name, own in made.named():
            given = tensors.get(name)
            if given is None:
                what = "is missing"
            elif given.shape != own.shape:
                what = f"has shape {tuple(given.shape)}, not {tuple(own.shape)}"
            elif not bool(torch.isfinite(given.float()).all()):
                what = "holds values that are no numbers"
            else:
                own.copy_(given)
                continue
            raise CheckpointError(
                f"method 'tocom': '{name}' of {source} {what}; give the adapters of backbone"
                f" '{facts.name}', and their group_width (here {group_width})"
            )
        return made

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The authors' name of every adapter, and its weight."""
        for key, weight in self.weights.items():
            layer, part, kind = key.split("_")
            yield NAME.format(layer, part, kind), weight

    def pair(self, layer: int, part: str) -> tuple[Tensor, Tensor]:
        """Down (h, C) and up (H D, h) of a block's `q` or `v`."""
        return self.weights[_key(layer, part, "down")], self.weights[_key(layer, part, "up")]

    def between(
        self, source: float | Sequence[float], target: float | Sequence[float], *, scale: float
    ) -> Compensation:
        """What takes weights of one degree to another; degrees may be given block by block."""
        blocks = len(self.weights) // 4

        def masks(degrees: float | Sequence[float]) -> Tensor:
            rows = [degrees] * blocks if isinstance(degrees, (int, float)) else degrees
            return torch.stack([prefix_mask(degree, self.group_width) for degree in rows])

        return Compensation(self, masks(target) - masks(source), scale)


def _key(layer: int, part: str, kind: str) -> str:
    return f"{layer}_{part}_{kind}"


def prefix_mask(degree: float, group_width: int) -> Tensor:
    """(16 g,): 1 on the last `degree` groups of g units, the fraction on the one before, else 0."""
    from_last = torch.arange(DEGREES, 0, -1, dtype=torch.float64) - 1
    groups = (degree - from_last).clamp(0.0, 1.0)
    return groups.repeat_interleave(group_width).float()


def removed_at(degree: int, facts: BackboneFacts, *, rescaled: bool) -> int:
    """ToMe's r of a degree: patch tokens that go in every block."""
    share = facts.num_patches / (DEGREES * facts.num_blocks)
    return round(degree * share) if rescaled else degree


def target_degree(facts: BackboneFacts, kept: Mapping[int, int], *, rescaled: bool) -> float:
    """The degree, 0 to 16, that a schedule comes to; a whole number for a uniform one.

    Raises:
        ConfigError: it removes more than degree 16 does.
    """
    left, counts = facts.num_patches, []
    for layer in range(facts.num_blocks):
        left = kept.get(layer, left)
        counts.append(left)
    share = DEGREES * facts.num_blocks / facts.num_patches if rescaled else 1.0
    uniform = [_uniform(facts, r) for r in range(facts.num_patches // 2 + 1)]
    if counts in uniform:
        exact = uniform.index(counts) * share
        degree = float(round(exact)) if rescaled else exact
    else:
        costs = np.array([_macs(facts, row) for row in uniform], dtype=np.float64)
        steps = np.arange(len(uniform), dtype=np.float64)
        degree = share * float(np.interp(-_macs(facts, counts), -costs, steps))
    if degree > DEGREES:
        raise ConfigError(
            f"method 'tocom' compensates for degrees 0 to {DEGREES}, but this schedule comes to"
            f" {degree:.1f}; keep more tokens, or leave adapters out"
        )
    return degree


def _uniform(facts: BackboneFacts, removed: int) -> list[int]:
    """Patch tokens leaving each block where ToMe's code is given one r."""
    left, counts = facts.num_patches, []
    for _ in range(facts.num_blocks):
        left -= min(removed, left // 2)
        counts.append(left)
    return counts


def _macs(facts: BackboneFacts, counts: list[int]) -> int:
    """Multiply-accumulates of all blocks when these patch tokens leave them."""
    total, entering = 0, facts.num_patches
    for block, leaving in zip(facts.blocks, counts, strict=True):
        n = entering + facts.num_prefix
        total += 2 * n * block.inner_width * (2 * block.width + n)
        total += block.mlp_matrices * block.width * block.hidden * (leaving + facts.num_prefix)
        entering = leaving
    return total
