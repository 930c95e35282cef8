"""Sums over images that add up, and the quality figure they come to."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autotok.errors import DataError
from autotok.metrics import METRICS

from .intervals import mean_interval, wilson

_SUMMED = (
    *("num_images", "num_labelled", "correct", "num_compared", "agreeing", "kl_sum", "kl_squares"),
    "macs_noattn",
)
_LISTED = ("kls", "values", "macs")
"""Of a tally, what adds up, and what goes one after the other."""
NEIGHBOURS = 10
VOTERS = 20
DESCRIPTIONS = {
    "feature": "mean cosine of the features of every patch, put back on the grid, with those of the"
    " uncompressed model (half of it the class token's where the output is made of that)",
    "knn": f"share of the {NEIGHBOURS} nearest neighbours in a gallery that the uncompressed model"
    " finds too",
    "knn_top1": f"share of the images whose class the {VOTERS} nearest labelled training images"
    " vote for, as the uncompressed model sees these",
    "own": "mean of what the given evaluator says of each image",
    "own_loss": "mean of what the given evaluator says of each image, less is better",
}


@dataclass(frozen=True)
class Quality:
    """A quality figure with its 95 % interval, and what it is."""

    metric: str
    """One of `metrics.QUALITIES`; the table of metrics says its unit and whether less is better."""
    value: float
    low: float
    high: float
    num_images: int
    top1_pct: float | None
    agreement_pct: float | None
    kl: float | None
    finetuned: bool
    description: str = ""
    """The metric in words."""
    macs_mean: float | None = None
    """Multiply-accumulates of an image, mean over those judged; None where all cost the same."""
    macs_std: float | None = None
    macs_noattn_mean: float | None = None
    feature_pct: float | None = None
    knn_pct: float | None = None
    knn_top1_pct: float | None = None
    own: float | None = None
    own_loss: float | None = None
    exit_shares: tuple[float, ...] = ()
    """Share of the images that stopped at each exit, then of those that went on to the end."""


@dataclass(frozen=True)
class Tally:
    """Sums over images; tallies of disjoint images add up."""

    metric: str
    num_images: int = 0
    num_labelled: int = 0
    correct: int = 0
    num_compared: int = 0
    agreeing: int = 0
    kl_sum: float = 0.0
    kl_squares: float = 0.0
    finetuned: bool = False
    gallery: int = 0
    """Reference images that stand in for classes; 0 for a model with a head."""
    hits: str = ""
    """'1' or '0' per image in the order run: right (top1, knn_top1; kl, where labels are known) or
    agreeing."""
    kls: tuple[float, ...] = ()
    """KL divergence per image, where that is the metric."""
    values: tuple[float, ...] = ()
    """Per image, of another metric that is a mean of such."""
    macs: tuple[int, ...] = ()
    """Multiply-accumulates per image, where images cost different amounts."""
    macs_noattn: int = 0
    """Their sum without attention products."""
    exits: tuple[int, ...] = ()
    """Images that stopped at each exit, then those that went on to the end; () without exits."""
    judged: str = ""
    """The configuration that was judged, as JSON; '' where nobody said. Sums of two do not mix."""
    precision: str = "float32"
    """What its products ran in; sums of two do not mix either."""

    def __add__(self, other: Tally) -> Tally:
        if (self.metric, self.gallery) != (other.metric, other.gallery):
            raise ValueError(f"tallies of {self.metric} and {other.metric} do not add up")
        if self.judged and other.judged and self.judged != other.judged:
            raise ValueError("tallies of two different configurations do not add up")
        if self.precision != other.precision:
            raise ValueError(f"tallies in {self.precision} and {other.precision} do not add up")
        sums: dict[str, Any] = {n: getattr(self, n) + getattr(other, n) for n in _SUMMED}
        lists: dict[str, Any] = {n: (*getattr(self, n), *getattr(other, n)) for n in _LISTED}
        return dataclasses.replace(
            self,
            **sums,
            **lists,
            finetuned=self.finetuned or other.finetuned,
            hits=self.hits + other.hits if self._all_hits and other._all_hits else "",
            exits=_added(self.exits, other.exits),
            judged=self.judged or other.judged,
        )

    @property
    def _all_hits(self) -> bool:
        """A tally of an earlier version may lack them."""
        return len(self.hits) == self.num_images

    def having(self, values: tuple[float, ...]) -> Tally:
        """This tally with values of its images."""
        return dataclasses.replace(self, values=values)

    def quality(self) -> Quality:
        """The figure: Wilson's interval for percentages, the normal one for a mean over images."""
        if self.num_images == 0:
            raise DataError("no image was evaluated; ask for at least one")
        # a tally of an earlier version has none of the first images of an accuracy
        compared = self.num_compared if self.num_compared == self.num_images else 0
        value, low, high = self._mean() if METRICS[self.metric].mean else self._percentage()
        return Quality(
            metric=self.metric,
            value=value,
            low=low,
            high=high,
            num_images=self.num_images,
            top1_pct=_share(self.correct, self.num_labelled),
            agreement_pct=_share(self.agreeing, compared),
            kl=self.kl_sum / compared if compared else None,
            finetuned=self.finetuned,
            description=self._description(),
            exit_shares=tuple(count / self.num_images for count in self.exits),
            **self._mean_costs(),
            **({METRICS[self.metric].column: value} if self.metric in DESCRIPTIONS else {}),
        )

    def _percentage(self) -> tuple[float, float, float]:
        hits = self.agreeing if self.metric == "agreement" else self.correct
        low, high = wilson(hits, self.num_images)
        return 100.0 * hits / self.num_images, 100.0 * low, 100.0 * high

    def _mean(self) -> tuple[float, float, float]:
        """Within what the metric can be."""
        kl = self.metric == "kl"
        count = self.num_compared if kl else len(self.values)
        if count < 2:
            raise DataError(
                f"one image says nothing of how far a mean {METRICS[self.metric].brief} may be off;"
                " give 2 images or more, or another quality"
            )
        total = self.kl_sum if kl else math.fsum(self.values)
        squares = self.kl_squares if kl else math.fsum(x * x for x in self.values)
        low, high = mean_interval(total, squares, count)
        if METRICS[self.metric].unit == "%":
            high = min(100.0, high)
        return total / count, max(0.0, low) if kl else low, high

    def _mean_costs(self) -> dict[str, float]:
        if not self.macs:
            return {}
        return {
            "macs_mean": statistics.fmean(self.macs),
            "macs_std": statistics.pstdev(self.macs),
            "macs_noattn_mean": self.macs_noattn / len(self.macs),
        }

    def _description(self) -> str:
        if self.metric == "top1":
            return "top-1 accuracy"
        if self.metric not in ("agreement", "kl"):
            return DESCRIPTIONS[self.metric]
        what = "agreement" if self.metric == "agreement" else "mean KL divergence"
        if self.gallery:
            what += f" of nearest neighbours among {self.gallery} images,"
        return f"{what} with the uncompressed model"


def _added(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Entry by entry; an empty one is none of them."""
    return tuple(map(sum, zip(first, second, strict=True))) if first and second else first or second


def _share(part: int, total: int) -> float | None:
    return 100.0 * part / total if total else None


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """To the digits that records keep."""
    return tuple(float(f"{x:.6g}") for x in values)


def bits(flags: Tensor) -> str:
    """(B,) booleans as a string of '1' and '0'."""
    return "".join("1" if flag else "0" for flag in flags.tolist())


def with_costs(tally: Tally, model: nn.Module) -> Tally:
    """The tally of a batch with what each of its images cost, where the model notes that."""
    costs = getattr(model, "image_costs", None)
    if costs is None:
        return tally
    each, total = tuple(costs.macs.tolist()), int(costs.macs_noattn.sum())
    stopped: tuple[int, ...] = getattr(costs, "exits", ())
    return dataclasses.replace(tally, macs=each, macs_noattn=total, exits=stopped)
