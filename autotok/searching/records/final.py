"""`Final`: what the final evaluation found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .record import TrialRecord


@dataclass(frozen=True)
class Final:
    """What the final evaluation found."""

    front: tuple[TrialRecord, ...]
    """Non-dominated at the last fidelity and inside every budget, cheapest first."""
    best: TrialRecord | None
    random_control: TrialRecord | None
    """The best of random pruning at the cost of the best."""
    controls: tuple[TrialRecord, ...]
    reference: TrialRecord | None
    """The uncompressed model."""
    outside: tuple[TrialRecord, ...] = ()
    """Finalists that turned out to be outside a limit, measured or on more images."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        singles = {name: getattr(self, name) for name in ("best", "random_control", "reference")}
        return {
            **{name: None if r is None else r.to_dict() for name, r in singles.items()},
            "front": [r.to_dict() for r in self.front],
            "controls": [r.to_dict() for r in self.controls],
            "outside": [r.to_dict() for r in self.outside],
        }
