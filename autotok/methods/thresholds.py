"""`Calibrated`: for adaptive methods whose thresholds are found so that amounts are met."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from autotok.config import CompressionConfig, Primitive

from .base import TokenReducer


class Calibrated(TokenReducer):
    """A reducer with a threshold that calibration on images can find."""

    calibrates: ClassVar[str]
    """The option that holds it."""
    learns_thresholds: ClassVar[bool] = False
    """Training finds it, and `emit` hands it over."""
    calibrating: bool = False
    """The next `reduce` finds the threshold that keeps `num_keep` on average."""

    def calibrated(self) -> dict[str, Primitive]:
        """Options of this reduction layer that hold what calibration found."""
        return {self.calibrates: self.values[self.calibrates]}


def with_thresholds(
    config: CompressionConfig, reducers: Mapping[int, TokenReducer]
) -> CompressionConfig:
    """A configuration whose reduction layers hold the thresholds that its reducers have."""
    found = {k: r.calibrated() for k, r in reducers.items() if isinstance(r, Calibrated)}
    reductions = (
        dataclasses.replace(r, options={**r.options, **found.get(r.layer, {})})
        for r in config.reductions
    )
    return dataclasses.replace(config, reductions=tuple(reductions))


def trains_thresholds(method: type[TokenReducer]) -> bool:
    """Whether a method's training finds its thresholds."""
    return issubclass(method, Calibrated) and method.learns_thresholds
