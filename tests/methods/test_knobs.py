"""The authors' knobs, converted to counts."""

import pytest

from autotok.config import Reduction
from autotok.errors import ConfigError
from autotok.methods import knobs


def counts(reductions: tuple[Reduction, ...]) -> dict[int, int | None]:
    return {r.layer: r.num_keep for r in reductions}


def test_a_single_r_removes_the_same_in_every_block() -> None:
    assert counts(knobs.from_num_removed(8, 64, num_blocks=3)) == {0: 56, 1: 48, 2: 40}


def test_a_list_of_r_is_padded_with_zeros() -> None:
    assert counts(knobs.from_num_removed([0, 5], 64, num_blocks=4)) == {1: 59}


def test_r_with_inflection_is_the_published_schedule() -> None:
    assert knobs.spread(6, -1.0, 6) == (12, 9, 7, 4, 2, 0)
    assert knobs.spread(6, 0.0, 6) == (6,) * 6
    assert knobs.spread(6, 1.0, 6) == (0, 2, 4, 7, 9, 12)
    assert knobs.spread(6, -1.0, 1) == (12,)
    falling = knobs.from_num_removed((6, -1.0), 64, num_blocks=6)
    assert counts(falling) == {0: 52, 1: 43, 2: 36, 3: 32, 4: 30}


def test_r_is_capped_at_half_only_where_asked() -> None:
    capped = knobs.from_num_removed(40, 64, num_blocks=3, at_most_half=True)
    assert counts(capped) == {0: 32, 1: 16, 2: 8}
    with pytest.raises(ConfigError, match="removes every patch token by layer 1"):
        knobs.from_num_removed(40, 64, num_blocks=3)


def test_too_many_r_are_refused() -> None:
    with pytest.raises(ConfigError, match="given for 3 blocks, but the backbone has 2"):
        knobs.from_num_removed([1, 1, 1], 64, num_blocks=2)


def test_stage_ratios_count_the_fused_token() -> None:
    ratios = {1: 0.7, 3: 0.7, 4: 0.7}
    assert counts(knobs.from_stage_ratios(ratios, 64)) == {1: 45, 3: 32, 4: 23}
    assert counts(knobs.from_stage_ratios(ratios, 64, fused=True)) == {1: 46, 3: 34, 4: 25}
    assert knobs.from_stage_ratios({1: 1.0}, 64, fused=True) == ()


def test_cumulative_ratios_use_the_asked_rounding_and_leave_one() -> None:
    ratios = {1: 0.7, 3: 0.49}
    assert counts(knobs.from_cumulative_ratios(ratios, 64, rounding="floor")) == {1: 44, 3: 31}
    assert counts(knobs.from_cumulative_ratios(ratios, 64, rounding="ceil")) == {1: 45, 3: 32}
    assert counts(knobs.from_cumulative_ratios({0: 0.001}, 64, rounding="floor")) == {0: 1}


def test_entering_ratios_may_count_the_class_token() -> None:
    ratios = {0: 0.9, 1: 0.9}
    assert counts(knobs.from_entering_ratios(ratios, 64)) == {0: 58, 1: 53}
    with_cls = knobs.from_entering_ratios({0: 0.85}, 64, num_counted_prefix=1)
    assert counts(with_cls) == {0: 55}


def test_counts_leave_out_layers_where_nothing_goes() -> None:
    assert counts(knobs.from_counts({0: 64, 2: 40, 3: 40, 5: 7}, 64)) == {2: 40, 5: 7}
