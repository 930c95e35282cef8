"""The learning rate of a fine-tune, found by a few steps at a few rates.

Every rate starts from the same weights, takes the same steps on the same images and is judged on
the same held-out ones; a recipe's rates for backbone and method move together. The first steps of
AdamW are as long as the rate whatever the gradient, so a rate that a pretrained model cannot bear
shows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

RATES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7)
"""What is tried, from high to low."""
FIRST = 3e-5
CAREFUL, USUAL = 1e-5, 1e-4
"""Where a fine-tune is too short for a probe: for pretrained weights, and for recipes that spare
them and train the method's own, which start meaningless."""
SHARE = 0.2
"""Of a fine-tune's steps, at most, what the probe may cost."""
STEPS_IN_ONE = 40
"""One probing step for so many of the fine-tune's."""
FEWEST_STEPS, MOST_STEPS = 4, 8
"""Fewer show the jolt of the first one only, which a warm-up softens."""
NEARLY = 0.9
"""Of the best gain; of rates that gain so much the highest leads farther in a whole fine-tune."""


@dataclass(frozen=True)
class Tried:
    """A rate, and the loss on held-out images after its steps; None: it is no number."""

    lr: float
    loss: float | None


@dataclass(frozen=True)
class RateChoice:
    """The highest learning rate of a fine-tune, and why."""

    lr: float
    why: str
    start: float | None = None
    """Loss on the probe's held-out images before any step."""
    steps: int = 0
    """Steps at each rate."""
    tried: tuple[Tried, ...] = ()
    spent: int = 0
    """Steps' worth of the fine-tune that the probe took, its judging included."""


@dataclass(frozen=True)
class ProbePlan:
    """How much probing a fine-tune affords."""

    steps: int
    """At each rate."""
    rates: int
    """Tried, at most."""
    images: int
    """Held-out images they are judged on."""
    cost: float
    """Of one rate, in steps of the fine-tune."""


def plan_probe(steps: int, images_per_step: int, num_held_out: int) -> ProbePlan | None:
    """The probe of a fine-tune of so many steps; None if two rates do not fit into its share."""
    images = min(num_held_out, max(8, 2 * images_per_step))
    judging = images / (3.0 * images_per_step)  # a step costs about three forwards
    each = min(MOST_STEPS, max(FEWEST_STEPS, steps // STEPS_IN_ONE))
    rates = int((SHARE * steps - judging) / (each + judging))
    return None if rates < 2 else ProbePlan(each, rates, images, each + judging)


def climb(
    loss_at: Callable[[float], float], start: float, more: Callable[[int], bool]
) -> dict[float, float]:
    """Losses by rate: from `FIRST` up while the loss falls; else down until it is below `start`
    and falls no further.

    A rate that is no better than the start says nothing for higher ones, so none is tried then.
    `more` is asked, with the number tried, whether another may be.
    """
    found = {FIRST: loss_at(FIRST)}
    first = at = RATES.index(FIRST)
    for towards in (-1, 1) if found[FIRST] < start else (1,):
        while at == first or towards < 0 or at > first:
            further = at + towards
            if not 0 <= further < len(RATES) or not more(len(found)):
                return found
            found[RATES[further]] = loss_at(RATES[further])
            if found[RATES[at]] < start and found[RATES[further]] >= found[RATES[at]]:
                break
            at = further
    return found


def choose(found: dict[float, float], start: float) -> tuple[float, str]:
    """The highest rate that nearly lowered the loss most, and the reason in words."""
    gain = start - min(found.values())
    if not gain > 0:  # nor where neither is a number
        return lower(min(found)), (
            f"none of {len(found)} rates tried lowered the held-out loss ({start:.4g}), so it is"
            " the next lower one"
        )
    chosen = max(rate for rate, loss in found.items() if start - loss >= NEARLY * gain)
    return chosen, (
        f"the highest of {len(found)} rates tried with at least {NEARLY:.0%} of the best gain on"
        f" held-out images, loss {start:.4g} to {found[chosen]:.4g}"
    )


def lower(rate: float) -> float:
    """The next lower rate: of `RATES`, else a third."""
    return next((r for r in RATES if r < 0.9 * rate), rate / 3.0)


def finite_loss(loss: float) -> float | None:
    """A loss as records keep it: None where it is no number."""
    return loss if math.isfinite(loss) else None
