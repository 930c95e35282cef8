"""ATS: sample tokens along the cumulated attention of the class token.

Fayyaz, Abbasi Koohpayegani, Rezaei Jafari, Sengupta, Vaezi Joze, Sommerlade, Pirsiavash, Gall,
"Adaptive Token Sampling for Efficient Vision Transformers", ECCV 2022, arXiv 2111.15667; code
adaptivetokensampling/ATS. `raster` is the sampler of JoakimHaurum/TokenReduction.

Between attention and MLP, a patch is as significant as the class token's attention to it times the
length of its value. Significances, sorted, are cumulated into a curve from 0 to 1; evenly spaced
points on its axis each pick the nearest token. Points that meet in one token make the count depend
on the image: `num_keep` is their number, so the most that can stay. `raster` multiplies head by
head, cumulates in raster order and takes the middles of even intervals.

Departures: the curve runs over an image's own tokens only, so batch neighbours do not matter (the
authors' batched code lets padding shift it); to stop here is the same as leaving out query rows, as
they do; plain softmax, without their 1e-6; their least budget of 8 is dropped. All prefix tokens
are protected; where the class token is unsupervised or missing, the mean of all rows stands in
(option `score`). Calibration looks for the number of points that keep `num_keep` on average.
`rows: fixed` pads every image to `num_keep` rows where the authors pad to the longest of a batch:
the same results in static shapes, which export, at the cost of the rows.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from autotok.config import Options, Primitive
from autotok.errors import ConfigError
from autotok.tokens import Needs, Taps, Tokens

from .base import Count, Kind, Option, Site, Training
from .primitives import above_zero, select_ragged
from .registry import register
from .scoring import SCORE, Scoring
from .thresholds import Calibrated

MOST_POINTS = 4096


@register("ats")
class ATS(Scoring, Calibrated):
    """Keeps the tokens that evenly spaced points of the cumulated significance fall on."""

    title = "ATS (ECCV 2022)"
    kind = Kind.PRUNE
    training_need = Training.OPTIONAL
    count = Count.ADAPTIVE
    rounding = "floor"
    calibrates = "points"
    exportable = False
    options = (
        SCORE,
        Option(
            "sampler", "sorted", "how significances are cumulated", choices=("sorted", "raster")
        ),
        Option("points", 0, "points that sample; 0 is num_keep", low=0, high=MOST_POINTS),
        Option(
            "rows",
            "longest",
            "rows of an image in a batch: what the longest needs, or num_keep (fixed), those not"
            " sampled masked; fixed ones are static, count in full, and export",
            choices=("longest", "fixed"),
        ),
    )
    needs = Needs.CLS_ATTENTION | Needs.VALUES

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site, options)
        self.points = int(self.values["points"])
        self.fixed = self.values["rows"] == "fixed"

    @classmethod
    def resolve_options(cls, given: Options) -> dict[str, Primitive]:
        found = super().resolve_options(given)
        if found["rows"] == "fixed" and found["points"]:
            raise ConfigError(
                f"option 'points' of method '{cls.name}' is {found['points']}, but with rows=fixed"
                " there are as many as a layer keeps; leave points out, or use rows=longest"
            )
        return found

    @classmethod
    def count_with(cls, options: Options) -> Count:
        return Count.STATIC if options["rows"] == "fixed" else cls.count

    def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
        if tokens.x.is_meta:
            nothing = torch.ones(tokens.x.shape[0], tokens.num_patches, device="meta")
            return select_ragged(tokens, nothing > 0, nominal=num_keep)
        live = alive(tokens)
        scores = self._scores(taps, tokens.num_prefix)  # (B, n)
        if self.calibrating and not self.fixed:
            self.points = self._fitting_points(scores, live, num_keep)
        keep, order = self._sampled(scores, live, num_keep)
        if self.training:
            return dataclasses.replace(tokens, mask=keep.to(tokens.x.dtype))
        return select_ragged(tokens, keep, nominal=num_keep, order=order, fixed=self.fixed)

    def calibrated(self) -> dict[str, Primitive]:
        return {"points": self.points}

    @torch.no_grad()
    def _scores(self, taps: Taps, prefix: int) -> Tensor:
        row = taps.cls_attention if self.needs & Needs.CLS_ATTENTION else taps.column_means
        lengths = taps.values[:, :, prefix:].square().sum(dim=-1)  # (B, H, n)
        if self.values["sampler"] == "raster":
            return (row[:, :, prefix:] * lengths.sqrt()).sum(dim=1)
        return row[:, :, prefix:].sum(dim=1) * lengths.sum(dim=1).sqrt()

    @torch.no_grad()
    def _sampled(self, scores: Tensor, live: Tensor, num_keep: int) -> tuple[Tensor, Tensor | None]:
        """Which tokens (B, n) the points fall on, and in which order they shall stand."""
        points = self.points or num_keep
        if self.values["sampler"] == "raster":
            return _raster(scores, live, points), None
        return _sorted(scores, live, points, stable=not self.fixed)

    def _fitting_points(self, scores: Tensor, live: Tensor, num_keep: int) -> int:
        """The smallest number of points with which the batch keeps `num_keep` on average."""
        low, high = 1, MOST_POINTS
        while low < high:
            self.points = (low + high) // 2
            keep, _ = self._sampled(scores, live, num_keep)
            enough = float(keep.sum(dim=1).double().mean()) >= num_keep
            low, high = (low, self.points) if enough else (self.points + 1, high)
        return low


def alive(tokens: Tokens) -> Tensor:
    """(B, n) bool: patches that are there, neither padding nor masked out."""
    if tokens.present is not None:
        return tokens.present
    return torch.ones_like(tokens.patches[..., 0], dtype=torch.bool)


def _sorted(scores: Tensor, live: Tensor, points: int, *, stable: bool) -> tuple[Tensor, Tensor]:
    """Tokens picked (B, n) along the curve of rising scores, and that order."""
    judged = scores.masked_fill(~live, torch.inf)
    # ONNX has no stable sort; it matters only where two tokens score exactly the same
    order = judged.argsort(dim=1, stable=True) if stable else judged.argsort(dim=1)
    ours, counts = live.gather(1, order), live.sum(dim=1, keepdim=True)
    curve = _cumulated(scores.gather(1, order), ours)
    low, top = curve[:, :1], curve.gather(1, (counts - 1).clamp_min(0))
    wide = (top - low).clamp_min(above_zero(1e-12, curve))
    curve = (curve - low) / wide  # the least token is at 0, the best at 1
    start = curve.masked_fill(~ours | (curve <= 0), torch.inf).amin(dim=1, keepdim=True)
    start = start.clamp_max(1.0)
    line = torch.linspace(0.0, 1.0, points) if points > 1 else torch.ones(1)
    grid = start + (1.0 - start) * line.to(curve)  # (B, points)
    place = torch.arange(curve.shape[1], device=scores.device)
    picked = _nearest(curve, ours & (place >= counts - points), grid)
    return torch.zeros_like(live).scatter(1, order, picked), order


def _raster(scores: Tensor, live: Tensor, points: int) -> Tensor:
    """Tokens picked (B, n) along the curve in the order they stand in."""
    line = torch.arange(points, device=scores.device)
    grid = (2 * line + 1) / (2 * (points + 1))
    curve = _cumulated(scores, live)
    return _nearest(curve, live, grid.to(curve.dtype).expand(curve.shape[0], -1))


def _cumulated(scores: Tensor, live: Tensor) -> Tensor:
    """(B, n): running sum of the live tokens' shares."""
    scores = scores.masked_fill(~live, 0.0)
    return (scores / scores.sum(dim=1, keepdim=True)).cumsum(dim=1)


def _nearest(curve: Tensor, candidates: Tensor, grid: Tensor) -> Tensor:
    """(B, n) bool: candidates that are the nearest on the curve to some point of the grid."""
    away = (grid.unsqueeze(2) - curve.unsqueeze(1)).abs()  # (B, points, n)
    away = away.masked_fill(~candidates.unsqueeze(1), torch.inf)
    return torch.zeros_like(candidates).scatter(1, away.argmin(dim=2), True) & candidates
