"""A reading on the wire."""

import pytest

from autotok.devices.measurement import Measurement, memory_alone

DATA = {
    "latency_ms": 2, "p90_ms": 3.0, "mad_ms": 0.1, "runs": 9, "verdict": "steady",
    "reference_latency_ms": None, "speedup": None, "peak_memory_mb": 10.0,
    "memory_source": "x", "device": "d", "runtime": "r", "dtype": "float32", "batch": 1,
    "image_shape": [3, 8, 8], "threads": 1, "when": "now", "more": "left out",
}  # fmt: skip


def test_a_reading_survives_the_wire_and_one_that_cannot_be_is_refused() -> None:
    reading = Measurement.from_dict(DATA)
    assert Measurement.from_dict(reading.to_dict()) == reading
    assert "median of 9 +- 5.0 %" in reading.source
    for wrong in ({"latency_ms": 0}, {"latency_ms": float("nan")}, {"mad_ms": "x"}):
        with pytest.raises(ValueError, match=r"."):
            Measurement.from_dict({**DATA, **wrong})


def test_images_that_ran_one_by_one_share_the_time_of_their_batch() -> None:
    four = Measurement.from_dict({**DATA, "batch": 4, "reference_latency_ms": 8.0, "speedup": 4.0})
    each = four.per_image()
    assert (each.latency_ms, each.reference_latency_ms, each.batch) == (0.5, 2.0, 1)
    assert (each.speedup, each.energy_mj) == (4.0, None)
    assert each.spread_pct == four.spread_pct


@pytest.mark.parametrize(
    ("source", "alone"),
    [
        ("high-water mark, torch and its copy of the model included", False),
        ("high-water mark, with all else that this process holds", False),
        ("high-water mark of a process of its own, torch and weights included", True),
        ("allocator's peak", True),
    ],
)
def test_a_reading_of_an_earlier_version_says_by_its_source_what_its_memory_is(
    source: str, alone: bool
) -> None:
    old = {**DATA, "memory_source": source}
    assert Measurement.from_dict(old).memory_alone is alone
    assert memory_alone({**old, "memory_alone": not alone}) is not alone
