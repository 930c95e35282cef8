"""DPC-KNN: merge clusters around density peaks (TCFormer's clustering, as a plug-in).

Zeng, Jin, Liu, Qian, Luo, Ouyang, Wang, "Not All Tokens Are Equal: Human-centric Visual Analysis
via Token Clustering Transformer", CVPR 2022, arXiv 2204.08680; code zengwang430521/TCFormer; ViT
port JoakimHaurum/TokenReduction.

A token's density comes from its k nearest neighbours; its separation is the distance to the nearest
denser token. Tokens with the largest product become centres, every other token joins its nearest
centre, and each cluster becomes its (optionally learned) weighted mean.

Departures: no random noise on the densities, ties go to the lower index, so results are
deterministic; with fewer than k tokens all of them are neighbours; weights are off unless asked
for. TCFormer's convolutions and its attention from merged to unmerged tokens belong to its pyramid,
not to the plug-in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotok.config import Options
from autotok.facts import BackboneFacts
from autotok.tokens import Taps, Tokens

from .base import Counts, Kind, Option, Placement, Site, Training
from .clustering import OFFICIAL, TRACK_SIZE, distances, left_over
from .learning import Learning, TrainingRecipe
from .merging import merge
from .official_weights import OfficialWeights
from .primitives import gather_rows, start_layers
from .registry import register

# the authors' code
EPSILON = 1e-6
"""Added to the sum of a cluster's weights."""


@register("dpcknn")
class DPCKNN(OfficialWeights, Learning):
    """Merges clusters around tokens that are dense and far from denser ones."""

    title = "DPC-KNN (TCFormer, CVPR 2022)"
    kind = Kind.MERGE
    placement = Placement.BEFORE
    training_need = Training.OPTIONAL
    rounding = "floor"
    official_names = OFFICIAL
    options = (
        Option("neighbours", 5, "tokens a density is taken from", low=1, high=20, search=True),
        Option("weighted", False, "weigh tokens by a learned score in their cluster's mean"),
        TRACK_SIZE,
    )
    recipe = TrainingRecipe(source="TokenReduction: 30 epochs from the trained model, lr 1e-3")

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.score: nn.Linear | None = None
        if self.values["weighted"]:
            self.score = nn.Linear(site.facts.blocks[site.layer].width, 1)
            start_layers(self.score)

    @classmethod
    def overhead_macs(
        cls, facts: BackboneFacts, layer: int, entering: Counts, keep: Counts, options: Options
    ) -> Counts:
        score = entering if options["weighted"] else 0
        return (entering * entering + score) * facts.blocks[layer].width

    @classmethod
    def overhead_params(cls, facts: BackboneFacts, options: Options) -> int:
        return facts.blocks[0].width + 1 if options["weighted"] else 0

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        patches, track = tokens.patches, bool(self.values["track_size"])
        centres, assignment = density_peaks(patches, num_keep, int(self.values["neighbours"]))
        gone = left_over(centres, tokens.num_patches)
        target = assignment.gather(1, gone)
        weights = tokens.sizes() if track else patches.new_ones(patches.shape[:2])  # (B, n)
        if self.score is not None:
            weights = weights * self.score(patches).squeeze(-1).exp()
        out = merge(
            tokens, keep=centres, gone=gone, target=target, weights=weights, track_size=track
        )
        total = weights.gather(1, centres).scatter_add(1, target, weights.gather(1, gone))
        shrunk = out.patches * (total / (total + EPSILON)).unsqueeze(-1)  # as published
        return out.with_x(torch.cat([out.prefix, shrunk], dim=1))


@torch.no_grad()
def density_peaks(x: Tensor, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Centres (B, count) by falling score, and the cluster of each token (B, n)."""
    total, width = x.shape[1:]
    distance = distances(x) / width**0.5  # (B, n, n)
    near = distance.square().topk(min(neighbours, total), dim=-1, largest=False).values
    density = -near.mean(dim=-1)  # (B, n), its logarithm: where tokens lie far apart it is 0 itself
    index = torch.arange(total, device=x.device)
    above = density[:, None, :] > density[:, :, None]
    level = density[:, None, :] == density[:, :, None]
    denser = above | (level & (index[None, :] < index[:, None]))  # j is denser than i
    farthest = distance.flatten(1).amax(dim=1)[:, None, None]
    separation = torch.where(denser, distance, farthest).amin(dim=-1)
    centres = (density + separation.log()).topk(count, dim=1).indices
    assignment = gather_rows(distance, centres).argmin(dim=1)  # (B, k, n) -> (B, n)
    own = torch.arange(count, device=x.device).expand(x.shape[0], -1)
    return centres, assignment.scatter(1, centres, own)
