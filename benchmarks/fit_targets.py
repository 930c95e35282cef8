"""Fit a target's coefficients to its points marked 'fitted', and print every point's error.

    python benchmarks/fit_targets.py rtx3090 fixed_ms dispatch_us kernel_start_us matmul
    python benchmarks/fit_targets.py jetson-nx \\
        kernel_start_us matmul runtime_base_mb activation_overhead

Least squares on relative errors (log ratio), starting from the values in the target file. Attention
and convolution share the matmul efficiency, as no published point tells them apart. The printed
values are written into the target file by hand, with their source. Without names nothing is fitted.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
from scipy.optimize import least_squares

import autotok.methods  # noqa: F401
from autotok.predicting.predict import check_points
from autotok.predicting.target import Target, load_target
from autotok.predicting.target_parts import Number, Setting

TIED = ("matmul", "conv", "attention")


def with_coefficients(target: Target, names: list[str], values: np.ndarray) -> Target:
    """The target with the named coefficients of its eager setting replaced."""
    setting = target.setting("eager")
    for name, value in zip(names, values, strict=True):
        number = Number(float(value), "fitted")
        if name in setting.efficiency:
            tied = {key: number for key in (TIED if name == "matmul" else (name,))}
            setting = dataclasses.replace(setting, efficiency={**setting.efficiency, **tied})
        else:
            setting = dataclasses.replace(setting, **{name: number})
    return dataclasses.replace(target, settings={"eager": setting})


def current(setting: Setting, name: str) -> float:
    """The present value of a coefficient."""
    if name in setting.efficiency:
        return setting.efficiency[name].value
    number: Number = getattr(setting, name)
    return number.value


def fit(target: Target, names: list[str]) -> Target:
    """The target with the named coefficients fitted; logarithms keep them positive."""
    shares = (*TIED, "bandwidth")
    highest = np.array([1.0 if name in shares else np.inf for name in names])

    def candidate(logs: np.ndarray) -> Target:
        return with_coefficients(target, names, np.minimum(np.exp(logs), highest))

    def residuals(logs: np.ndarray) -> np.ndarray:
        rows = check_points(candidate(logs))
        return np.array([np.log(r.predicted / r.published) for r in rows if r.fitted])

    start = np.log([max(current(target.setting(), name), 1e-3) for name in names])
    return candidate(least_squares(residuals, start, diff_step=1e-3).x)


def main() -> None:
    target, names = load_target(sys.argv[1]), sys.argv[2:]
    fitted = fit(target, names) if names else target
    for name in names:
        print(f"{name}: {current(fitted.setting(), name):.4g}")
    for row in check_points(fitted):
        label = f"{row.point.label} {row.point.metric}"
        print(
            f"{label:62s} published {row.published:8.2f} predicted {row.predicted:8.2f}"
            f" {row.error_pct:+6.1f} % {row.point.role}"
        )


if __name__ == "__main__":
    main()
