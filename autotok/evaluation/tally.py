"""Sums over images that add up, and the quality figure they come to."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from autotok.errors import DataError

from .intervals import mean_interval, wilson


@dataclass(frozen=True)
class Quality:
    """A quality figure with its 95 % interval, and what it is."""

    metric: str
    """'top1', 'agreement' or 'kl'; the first two are percentages, of the third less is better."""
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
    """'1' or '0' per image in the order run: right (top1) or agreeing; for paired comparisons."""
    kls: tuple[float, ...] = ()
    """KL divergence per image, where that is the metric."""
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
        return Tally(
            metric=self.metric,
            num_images=self.num_images + other.num_images,
            num_labelled=self.num_labelled + other.num_labelled,
            correct=self.correct + other.correct,
            num_compared=self.num_compared + other.num_compared,
            agreeing=self.agreeing + other.agreeing,
            kl_sum=self.kl_sum + other.kl_sum,
            kl_squares=self.kl_squares + other.kl_squares,
            finetuned=self.finetuned or other.finetuned,
            gallery=self.gallery,
            hits=self.hits + other.hits,
            kls=(*self.kls, *other.kls),
            macs=(*self.macs, *other.macs),
            macs_noattn=self.macs_noattn + other.macs_noattn,
            exits=_added(self.exits, other.exits),
            judged=self.judged or other.judged,
            precision=self.precision,
        )

    def quality(self) -> Quality:
        """The figure: Wilson's interval for percentages, the normal one for the mean KL."""
        if self.num_images == 0:
            raise DataError("no image was evaluated; ask for at least one")
        if self.metric == "kl":
            if self.num_compared < 2:
                raise DataError(
                    "one image says nothing of how far a mean KL divergence may be off; give 2"
                    " images or more, or another quality"
                )
            value = self.kl_sum / self.num_compared
            low, high = mean_interval(self.kl_sum, self.kl_squares, self.num_compared)
            low = max(0.0, low)
        else:
            hits = self.correct if self.metric == "top1" else self.agreeing
            value = 100.0 * hits / self.num_images
            low, high = (100.0 * end for end in wilson(hits, self.num_images))
        return Quality(
            metric=self.metric,
            value=value,
            low=low,
            high=high,
            num_images=self.num_images,
            top1_pct=_share(self.correct, self.num_labelled),
            agreement_pct=_share(self.agreeing, self.num_compared),
            kl=self.kl_sum / self.num_compared if self.num_compared else None,
            finetuned=self.finetuned,
            description=self._description(),
            exit_shares=tuple(count / self.num_images for count in self.exits),
            **self._mean_costs(),
        )

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
        what = "agreement" if self.metric == "agreement" else "mean KL divergence"
        if self.gallery:
            what += f" of nearest neighbours among {self.gallery} images,"
        return f"{what} with the uncompressed model"


def _added(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Entry by entry; an empty one is none of them."""
    return tuple(map(sum, zip(first, second, strict=True))) if first and second else first or second


def _share(part: int, total: int) -> float | None:
    return 100.0 * part / total if total else None
