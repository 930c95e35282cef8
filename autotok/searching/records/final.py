"""`Final`: what the final evaluation found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotok.plain_data import to_plain

from .record import TrialRecord


@dataclass(frozen=True)
class Final:
    """What the final evaluation found."""

    front: tuple[TrialRecord, ...]
    """Non-dominated at the last fidelity and inside every budget, cheapest first; and the best,
    where that was chosen among ties."""
    best: TrialRecord | None
    random_control: TrialRecord | None
    """The best of random pruning at the cost of the best."""
    controls: tuple[TrialRecord, ...]
    reference: TrialRecord | None
    """The uncompressed model, of several backbones the one of the best."""
    outside: tuple[TrialRecord, ...] = ()
    """Finalists that turned out to be outside a limit, measured or on more images."""
    smaller_image: TrialRecord | None = None
    """The uncompressed model on smaller images, at the cost of the best."""
    no_smaller_image: str = ""
    """Why there is no such control, in words; "" where there is."""
    no_random_control: str = ""
    """Why there is no random pruning at the cost of the best, in words; "" where there is."""
    others: tuple[TrialRecord, ...] = ()
    """Of every other backbone that was searched: uncompressed, and the best inside the budget where
    that is not on the front."""

    def uncompressed(self, backbone: str) -> TrialRecord | None:
        """A backbone as it is."""
        every = [r for r in (self.reference, *self.others) if r is not None]
        own = [r for r in every if r.origin == "reference" and r.backbone == backbone]
        return own[0] if own else self.reference

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        order = ("best", "random_control", "reference", "front", "controls", "outside")
        further = ["smaller_image", "no_smaller_image", "no_random_control"]
        further += ["others"] if self.others else []
        return {name: to_plain(getattr(self, name)) for name in (*order, *further)}
