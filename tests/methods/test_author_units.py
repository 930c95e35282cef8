"""The authors' knobs, converted to counts and back."""

import random

import author_units as knobs
import pytest

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError
from autotok.methods import get_method


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


@pytest.mark.parametrize("r", [-3, [4, -3]])
def test_tokens_cannot_be_added(r: int | list[int]) -> None:
    with pytest.raises(ConfigError, match="r is -3, and no tokens can be added; give"):
        knobs.from_num_removed(r, 64, num_blocks=3)


def test_stage_ratios_count_the_fused_token() -> None:
    ratios = {1: 0.7, 3: 0.7, 4: 0.7}
    assert counts(knobs.from_stage_ratios(ratios, 64)) == {1: 45, 3: 32, 4: 23}
    assert counts(knobs.from_stage_ratios(ratios, 64, fused=True)) == {1: 46, 3: 34, 4: 25}
    assert knobs.from_stage_ratios({1: 1.0}, 64, fused=True) == ()


def test_stage_ratios_may_count_the_class_token_and_name_what_stays_beside_it() -> None:
    wanted = {0.7: {3: 138, 6: 98, 9: 70}, 0.5: {3: 99, 6: 50, 9: 26}}  # 197: 139, 99, 71 tokens
    for ratio, kept in wanted.items():
        ratios = dict.fromkeys((3, 6, 9), ratio)
        assert counts(knobs.from_stage_ratios(ratios, 196, num_counted_prefix=1)) == kept
    assert counts(knobs.from_stage_ratios({1: 0.999}, 64, num_counted_prefix=1)) == {}


def test_a_list_of_counts_has_the_fused_token_beside_it() -> None:
    found = knobs.from_fused_counts([64, 52, 52, 30, 31, 2], 64)
    assert counts(found) == {1: 53, 2: 53, 3: 31, 5: 3}


def test_stage_numbers_above_one_are_counts() -> None:
    assert counts(knobs.from_stage_ratios({1: 40, 3: 0.5}, 64)) == {1: 40, 3: 20}
    assert counts(knobs.from_stage_ratios({1: 40}, 64, fused=True)) == {1: 41}
    assert knobs.from_stage_ratios({1: 64}, 64) == ()


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


def schedules(seed: int) -> tuple[int, tuple[Reduction, ...]]:
    """Any falling counts at any layers of 12: (initial patches, reductions)."""
    generator = random.Random(seed)
    patches = generator.choice([9, 49, 64, 196, 577])
    counts, left = {}, patches
    for layer in sorted(generator.sample(range(12), generator.randint(1, 12))):
        left = generator.randint(1, left)
        counts[layer] = left
    return patches, knobs.from_counts(counts, patches)


@pytest.mark.parametrize("seed", range(50))
def test_every_knob_comes_back_from_the_counts_it_gives(seed: int) -> None:
    patches, wanted = schedules(seed)
    r = knobs.to_num_removed(wanted, patches, num_blocks=12)
    assert knobs.from_num_removed(r, patches, num_blocks=12) == wanted
    everywhere = knobs.to_counts(wanted, patches, num_blocks=12)
    assert knobs.from_counts(everywhere, patches) == wanted
    assert knobs.from_stage_ratios(knobs.to_stage_ratios(wanted, patches), patches) == wanted
    cumulative = knobs.to_cumulative_ratios(wanted, patches)
    for rounding in ("floor", "ceil", "round"):
        assert knobs.from_cumulative_ratios(cumulative, patches, rounding=rounding) == wanted
    for prefix in (0, 1, 2):
        ratios = knobs.to_entering_ratios(wanted, patches, num_counted_prefix=prefix)
        again = knobs.from_entering_ratios(ratios, patches, num_counted_prefix=prefix)
        assert again == wanted


@pytest.mark.parametrize("seed", range(20))
def test_fused_stage_ratios_come_back_where_two_tokens_stay(seed: int) -> None:
    patches, free = schedules(seed)
    fusable: dict[int, int | None] = {}
    left = patches
    for r in free:
        if r.num_keep is not None and 2 <= r.num_keep <= left - 1:
            fusable[r.layer] = left = r.num_keep
    wanted = tuple(Reduction(layer, num_keep=count) for layer, count in fusable.items())
    ratios = knobs.to_stage_ratios(wanted, patches, fused=True)
    assert knobs.from_stage_ratios(ratios, patches, fused=True) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_diffrates_lists_come_back_with_the_split(seed: int) -> None:
    patches, free = schedules(seed)
    generator, left, split = random.Random(seed), patches, []
    for r in free:
        assert r.num_keep is not None
        options = {"num_pruned": generator.randint(0, left - r.num_keep)}
        split.append(Reduction(r.layer, num_keep=r.num_keep, options=options))
        left = r.num_keep
    for prefix in (1, 2):
        prune, merge = knobs.to_diffrate(split, patches, num_blocks=12, num_prefix=prefix)
        assert len(prune) == len(merge) == 12
        assert knobs.from_diffrate(prune, merge, patches, num_prefix=prefix) == tuple(split)


def test_diffrates_lists_are_read_as_its_code_does() -> None:
    reductions = knobs.from_diffrate([65, 60, 50], [65, 56, 55], 64)
    assert [(r.layer, r.num_keep, r.options["num_pruned"]) for r in reductions] == [
        (1, 55, 5),
        (2, 49, 6),
    ]
    with pytest.raises(ConfigError, match="prune gives counts for 1 blocks and merge for 2"):
        knobs.from_diffrate([65], [65, 65], 64)
    with pytest.raises(ConfigError, match="layer 1 does not say how many tokens it prunes"):
        knobs.to_diffrate([Reduction(1, num_keep=3)], 64, num_blocks=2)


def test_ppts_r_goes_to_the_listed_layers_and_takes_at_most_half() -> None:
    reductions = knobs.from_num_removed_at(50, [3, 6, 9], 196)
    assert counts(reductions) == {3: 146, 6: 96, 9: 48}
    assert knobs.to_num_removed_at(reductions, 196) == ((50, 50, 48), (3, 6, 9))
    assert counts(knobs.from_num_removed_at([5, 7], [2, 4], 64)) == {2: 59, 4: 52}
    with pytest.raises(ConfigError, match="given for 2 layers, but 1 are listed"):
        knobs.from_num_removed_at([5, 7], [2], 64)


def test_ppts_threshold_does_not_depend_on_resolution() -> None:
    ours = knobs.ppt_threshold(7e-5, 196)
    assert ours == pytest.approx(2.689, abs=1e-3)
    assert knobs.ppt_variance(ours, 64) == pytest.approx(6.565e-4, rel=1e-3)
    assert knobs.ppt_variance(ours, 196) == pytest.approx(7e-5)


def test_gtps_selections_have_our_names() -> None:
    assert knobs.gtp_selection("MixedAttnMax") == "mixed_max"
    assert knobs.gtp_selection("CLSAttnMean") == "cls_mean"
    assert knobs.gtp_selection("DiagAttnSum") == "diagonal_mean"
    with pytest.raises(ConfigError, match="selection 'CosSim' of GTP is not supported"):
        knobs.gtp_selection("CosSim")


def test_ltmps_thresholds_come_back() -> None:
    merge, prune = (0.85, 1.0, 0.8), (0.004, 0.0, 0.01)
    reductions = knobs.from_thresholds(merge, prune)
    assert [r.num_keep for r in reductions] == [None] * 3
    assert knobs.to_thresholds(reductions, num_blocks=3) == (merge, prune)
    assert knobs.to_thresholds(reductions[1:2], num_blocks=2) == ((1.0, 1.0), (0.0, 0.0))


def test_counts_cannot_come_from_a_ratio() -> None:
    with pytest.raises(ConfigError, match="layer 2 gives no num_keep"):
        knobs.to_counts([Reduction(2, keep_ratio=0.5)], 64, num_blocks=4)


def test_the_k_of_ats_counts_the_class_token_and_is_at_least_eight() -> None:
    """Limits of `AdaptiveTokenSampler`: a K of at most 1 is a ratio, 8 at least, all at most."""
    assert counts(knobs.from_num_sampled({3: 108, 6: 60}, 196)) == {3: 107, 6: 59}
    assert counts(knobs.from_num_sampled({3: 0.5}, 196)) == {3: 97}  # half of 197 is 98.5
    assert counts(knobs.from_num_sampled({3: 3, 5: 0.01}, 196)) == {3: 7}
    assert knobs.from_num_sampled({3: 197, 4: 500}, 196) == ()


@pytest.mark.parametrize(
    ("method", "kept"),
    [("tome", 8), ("tofu", 8), ("dtem", 8), ("ppt", 8), ("gtp", 4), ("evit", 4), ("topk", 4)],
)
def test_an_r_beyond_half_is_half_only_where_the_authors_code_says_so(
    method: str, kept: int
) -> None:
    """12 of 16 patches: matching takes `min(r, (N - prefix) // 2)`, ranking takes 12."""
    chosen = get_method(method)
    removed = knobs.from_num_removed(12, 16, num_blocks=1, at_most_half=chosen.halves_r)
    assert counts(removed) == {0: kept}
    low, high = chosen.feasible(16, chosen.resolve_options({}))
    assert low <= kept <= high


@pytest.mark.parametrize("ratio", [0.5, 0.43])
def test_pitomes_ratio_reaches_half_and_is_refused_beyond(ratio: float) -> None:
    """Plain merging needs 2r tokens of P; a smaller ratio is beyond what its code can run."""
    backbone = tiny_backbone()
    reductions = knobs.from_entering_ratios({2: ratio}, backbone.facts.num_patches)
    config = CompressionConfig("pitome", reductions, {"variant": "plain"})
    if ratio == 0.5:
        assert realise(config, backbone.facts).kept == (8,)
        return
    with pytest.raises(ConfigError, match="feasible: 8 to 16"):
        realise(config, backbone.facts)
