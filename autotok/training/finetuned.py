"""What a fine-tune tells: how far it is, and in the end what it did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .probe import RateChoice
from .steps import BackOff


@dataclass(frozen=True)
class FineTuned:
    """What a fine-tune did."""

    steps: int
    images: int
    seconds: float
    loss: float
    """Mean over the last tenth of the steps."""
    images_per_s: float
    precision: str
    rate: RateChoice
    """The learning rate, what was tried, and why it was chosen."""
    warmup_steps: int
    kept_step: int
    """The step whose state was handed over; 0 is the start."""
    held_out_images: int
    held_out: tuple[tuple[int, float | None], ...]
    """(step, loss on held-out training images), the start first; None is no number."""
    back_offs: tuple[BackOff, ...] = ()
    """Where the rate was lowered on the way."""

    @property
    def held_out_before(self) -> float | None:
        """Loss on held-out images of the start."""
        return self.held_out[0][1]

    @property
    def held_out_after(self) -> float | None:
        """The same of what was handed over: the lowest, so never above the start's."""
        return dict(self.held_out)[self.kept_step]

    def evidence(self) -> dict[str, Any]:
        """The rate, what was tried, which state was kept and why: plain data for records."""
        return {
            "lr": self.rate.lr,
            "lr_reason": self.rate.why,
            "probe_start": self.rate.start,
            "probe": [dataclasses.asdict(one) for one in self.rate.tried],
            "probe_steps": self.rate.spent,
            "warmup_steps": self.warmup_steps,
            "back_offs": [dataclasses.asdict(one) for one in self.back_offs],
            "held_out_images": self.held_out_images,
            "held_out_before": self.held_out_before,
            "held_out_after": self.held_out_after,
            "kept_step": self.kept_step,
            "kept_reason": self._kept(),
        }

    def _kept(self) -> str:
        if self.kept_step == 0:
            return "the start: no step lowered the loss on held-out images"
        lowest = f"the lowest loss on held-out images of {len(self.held_out)} states"
        return lowest if self.kept_step < self.steps else f"the end: {lowest}"


@dataclass(frozen=True)
class FineTuneProgress:
    """Where a fine-tune stands after a step."""

    step: int
    steps: int | None
    """None where the length is given in minutes."""
    progress: float
    """0 to 1."""
    loss: float
    """Mean over the last steps."""
    lr: float
    images_per_s: float
    """Since this process started it."""
    seconds_left: float
