"""The independent counter has the last word on a budget."""

from pathlib import Path

import pytest
from test_loop import Adaptive, limit_of, searched


def test_a_counter_that_disagrees_decides(tmp_path: Path) -> None:
    result = searched(Adaptive(), tmp_path / "run", found_by_counter=1.05)
    assert result.final.outside
    for record in result.front:
        assert record.costs is not None
        assert record.macs_counted == pytest.approx(1.05 * record.costs.macs, abs=1)
        assert 1.05 * record.costs.macs <= limit_of(result)


def test_what_was_counted_on_few_images_is_stored_as_of_all_that_were_judged(
    tmp_path: Path,
) -> None:
    result = searched(Adaptive(late=0.5), tmp_path / "run")  # images from the 200th on cost half
    adaptive = [r for r in result.front if r.macs_nominal is not None]
    assert adaptive
    for record in adaptive:
        assert record.costs is not None
        assert record.macs_counted == pytest.approx(record.costs.macs, abs=2)
