"""Rooflines that step and saturate, fusion, and calibrated terms; all by hand."""

import dataclasses

import pytest

from autotok.counting.operators import OperatorClass
from autotok.predicting.latency_model import device_ms, fused
from autotok.predicting.target import Target, load_target
from autotok.predicting.target_parts import Number, Setting, Terms
from autotok.predicting.trace import Operator


def number(value: float) -> Number:
    return Number(value, "estimate: made up for a test")


def setting(**changes: object) -> Setting:
    """One GMAC/s and 1 GB/s, no start."""
    ones = {key: number(1.0) for key in ("matmul", "conv", "attention", "bandwidth")}
    plain = Setting(
        asynchronous=False,
        fused_attention=True,
        fixed_ms=number(0.0),
        dispatch_us=number(0.0),
        kernel_start_us=number(0.0),
        efficiency=ones,
        runtime_base_mb=number(0.0),
        activation_overhead=number(1.0),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


TARGET: Target = dataclasses.replace(
    load_target("local"), peak_gmacs={"float32": number(1.0)}, bandwidth_gb_s=number(1.0)
)


def product(rows: int, inner: int, columns: int) -> Operator:
    macs = rows * inner * columns
    shapes = (rows, inner), (inner, columns)
    return Operator("mm", OperatorClass.MATMUL, shapes, ((rows, columns),), 0, 0, macs, 1)


def pointwise(name: str, read: int, written: int) -> Operator:
    return Operator(name, OperatorClass.ELEMENTWISE, ((1,),), ((1,),), read, written, 0, 1)


def ms(kernel: Operator, how: Setting) -> float:
    return float(device_ms([kernel], TARGET, how, dtype="float32"))


def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic() -> None:
    assert ms(product(100, 100, 100), setting()) == pytest.approx(1.0)
    assert ms(pointwise("add", 2_000_000, 1_000_000), setting()) == pytest.approx(3.0)
    start = setting(kernel_start_us=number(500.0))
    assert ms(product(100, 100, 100), start) == pytest.approx(1.5)


def test_rows_are_paid_in_whole_tiles() -> None:
    how = setting(tile_rows=number(64))
    times = [ms(product(rows, 100, 100), how) for rows in (1, 64, 65, 128)]
    assert times == pytest.approx([0.64, 0.64, 1.28, 1.28])


def test_efficiency_saturates_with_the_widths() -> None:
    how = setting(half_width=number(100))
    shares = [
        ms(product(10, w, w), setting()) / ms(product(10, w, w), how) for w in (50, 200, 5000)
    ]
    assert shares == pytest.approx([1 / 5, 1 / 2, 1 / 1.04])


def test_neighbouring_pointwise_kernels_become_one() -> None:
    run = [pointwise("mul", 100, 100), pointwise("add", 150, 100), pointwise("gelu", 100, 100)]
    found = fused([product(2, 2, 2), *run], "pointwise")
    assert [k.name for k in found] == ["mm", "mul"]
    assert (found[1].bytes_read, found[1].bytes_written) == (150, 100)
    assert fused(run, "none") == run


def test_an_epilogue_hides_behind_its_product() -> None:
    found = fused([product(2, 2, 2), pointwise("gelu", 100, 100), product(2, 2, 2)], "epilogue")
    assert [k.name for k in found] == ["mm", "mm"]


def test_terms_take_the_place_of_the_roofline() -> None:
    terms = Terms("fitted: made up", {"linear.macs": 0.01, "linear.calls": 5.0})
    assert ms(product(10, 10, 10), setting(terms=terms)) == pytest.approx((1000 * 0.01 + 5) / 1e3)
    assert ms(pointwise("add", 100, 100), setting(terms=terms)) == 0.0
