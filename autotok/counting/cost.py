"""`Cost`: what a configuration costs exactly, in every convention; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one image and parameters, exact."""

    macs: int
    macs_noattn: int
    params: int

    @property
    def macs_g(self) -> float:
        """1e9 multiply-accumulates, attention included: what papers and budgets call GFLOPs."""
        return self.macs / 1e9

    @property
    def macs_noattn_g(self) -> float:
        """1e9 multiply-accumulates without the attention products."""
        return self.macs_noattn / 1e9

    @property
    def flops2x_g(self) -> float:
        """1e9 operations, a multiply-add counted as two."""
        return 2 * self.macs / 1e9

    @property
    def params_m(self) -> float:
        """1e6 parameters."""
        return self.params / 1e6

    @property
    def columns(self) -> dict[str, float | int]:
        """As table columns."""
        names = ("macs", "macs_g", "macs_noattn_g", "flops2x_g", "params_m")
        return {name: getattr(self, name) for name in names}
