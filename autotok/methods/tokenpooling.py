"""TokenPooling: keep the medoids, or the means, of clusters of tokens.

Marin, Chang, Ranjan, Prabhu, Rastegari, Tuzel, "Token Pooling in Vision Transformers for Image
Classification", WACV 2023, arXiv 2110.03860; no authors' code; K-medoids as in
JoakimHaurum/TokenReduction.

Tokens are clustered by Euclidean distance, each weighted by the attention it received in the block
before (summed over heads and query rows). `kmedoids` keeps the medoid of each cluster and drops the
rest; `kmeans` keeps weighted means. Weighted clustering starts from the heaviest tokens, unweighted
clustering from tokens far from each other.

Departures: `mode: textbook` (default) takes as medoid the member with the least weighted distance
to its cluster, and an empty cluster keeps its medoid; `mode: reference` is the TokenReduction
code's rule, where a candidate's distances to all tokens count, times its own weight, and an empty
cluster falls to token 0. Block 0 has no attention before it, so tokens there weigh the same. An
empty K-means cluster takes the token that fits its own cluster worst. The paper's iteration counts
and place inside the block were not checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autotok.config import Options
from autotok.errors import ConfigError
from autotok.facts import BackboneFacts
from autotok.tokens import Extra, Needs, Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Training
from .clustering import TRACK_SIZE, distances, farthest_points, left_over
from .lloyd import filled, reference_step, textbook_step, to_means
from .merging import merge
from .observing import Observing
from .primitives import gather_rows, select
from .registry import register

WEIGHT = "pooling_weight"
SHARED = (
    Option(
        "weighted",
        True,
        "weigh tokens by the attention they received in the block before",
        model_wide=True,
    ),
    Option("iterations", 3, "rounds of assigning and updating", low=1, high=10, search=True),
    Option(
        "seed", 0, "seed of the first token where the start is unweighted", low=0, high=2**31 - 1
    ),
    Option("first", -1, "the first token of an unweighted start; -1 draws it by the seed", low=-1),
    TRACK_SIZE,
)


class TokenPooling(Observing):
    """What both forms share: weights, and where clustering starts."""

    placement = Placement.BEFORE
    training_need = Training.OPTIONAL
    rounding = "floor"
    options: ClassVar[tuple[Option, ...]] = SHARED

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.iterations, self.first = int(self.values["iterations"]), int(self.values["first"])
        if self.first >= site.num_entering:
            raise ConfigError(
                f"option 'first' of method '{self.name}' is {self.first} at layer {site.layer}, but"
                f" only {site.num_entering} patch tokens arrive there; give a smaller one, or -1"
            )
        if self.first < 0:
            generator = np.random.default_rng([int(self.values["seed"]), site.layer])
            self.first = int(generator.integers(site.num_entering))

    @classmethod
    def listens(
        cls, layer: int, layers: Sequence[int], facts: BackboneFacts, options: Options
    ) -> Needs:
        heard = bool(options["weighted"]) and layer + 1 in layers
        return Needs.COLUMN_MEANS if heard else Needs.NONE

    def observe(self, layer: int, tokens: Tokens, taps: Taps) -> Tokens:
        received = taps.column_means.sum(dim=1) * tokens.x.shape[1]  # mean to sum over query rows
        extra = Extra(received[:, tokens.num_prefix :])
        return dataclasses.replace(tokens, extras={**tokens.extras, WEIGHT: extra})

    def weights(self, tokens: Tokens) -> Tensor | None:
        """(B, n) attention received in the block before; None where tokens weigh the same."""
        if self.values["weighted"] and self.site.layer > 0 and WEIGHT in tokens.extras:
            return tokens.extras[WEIGHT].values
        return None


@register("kmedoids")
class KMedoids(TokenPooling):
    """Keeps the medoid of each cluster of tokens."""

    title = "TokenPooling, K-medoids (WACV 2023)"
    kind = Kind.PRUNE
    options = (
        Option("mode", "textbook", "how a medoid is chosen", choices=("textbook", "reference")),
        *SHARED,
    )

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        return entering * entering * facts.blocks[layer].width  # distances

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        medoids, assignment = self.cluster(tokens, num_keep)
        kept = select(tokens, medoids)
        if not self.values["track_size"]:
            return kept
        cluster = torch.arange(num_keep, device=tokens.x.device)[None, :, None]
        held = assignment[:, None] == cluster  # (B, k, n)
        size = (held * tokens.sizes()[:, None]).sum(dim=-1)
        source = tokens.source
        if source is not None:
            source = held.to(torch.float32) @ source.to(torch.float32) > 0
        return dataclasses.replace(kept, size=size, source=source)

    @torch.no_grad()
    def cluster(self, tokens: Tokens, count: int) -> tuple[Tensor, Tensor]:
        """Medoids (B, count) and the cluster of each token (B, n)."""
        distance, weights = distances(tokens.patches), self.weights(tokens)
        reference = self.values["mode"] == "reference"
        if weights is not None:
            medoids = weights.topk(count, dim=1).indices
        else:
            reach = "farthest" if reference else "nearest"
            medoids = farthest_points(distance, count, first=self.first, reach=reach)
        update = reference_step if reference else textbook_step
        for _ in range(self.iterations):
            medoids = update(distance, weights, medoids)
        return medoids, gather_rows(distance, medoids).argmin(dim=1)


@register("kmeans")
class KMeans(TokenPooling):
    """Replaces each cluster of tokens by its weighted mean."""

    title = "TokenPooling, weighted K-means (WACV 2023)"
    kind = Kind.MERGE

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        width = facts.blocks[layer].width
        start = 0 if options["weighted"] and layer > 0 else entering * entering * width
        # a round assigns and averages; one more assignment in the end
        return entering * keep * width * (2 * int(options["iterations"]) + 1) + start

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        centres, assignment = self.cluster(tokens, num_keep)
        gone = left_over(centres, tokens.num_patches)
        target, track = assignment.gather(1, gone), bool(self.values["track_size"])
        weights = self.weights(tokens)
        if weights is not None and track:
            weights = weights * tokens.sizes()
        return merge(
            tokens, keep=centres, gone=gone, target=target, weights=weights, track_size=track
        )

    @torch.no_grad()
    def cluster(self, tokens: Tokens, count: int) -> tuple[Tensor, Tensor]:
        """The member nearest to each mean (B, count) and the cluster of each token (B, n)."""
        x = tokens.patches.to(torch.promote_types(tokens.x.dtype, torch.float32))
        weights = self.weights(tokens)
        if weights is not None:
            start = weights.topk(count, dim=1).indices
        else:
            start = farthest_points(distances(x), count, first=self.first)
        means = gather_rows(x, start)
        share = x.new_ones(x.shape[:2]) if weights is None else weights.to(x.dtype)
        index = torch.arange(count, device=x.device)[None, :, None]
        for _ in range(self.iterations):
            assignment, _ = filled(to_means(x, means), count)
            held = (assignment[:, None] == index) * share[:, None]  # (B, k, n)
            means = (held / held.sum(dim=-1, keepdim=True)) @ x
        assignment, nearest = filled(to_means(x, means), count)
        return nearest, assignment
