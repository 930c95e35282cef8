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
