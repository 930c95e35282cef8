"""Closed-form costs: known values, a formula written out by hand, and the vectorised form."""

import numpy as np
import pytest

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.cost import Cost
from autotok.counting.macs import cost, schedule_macs, uncompressed
from autotok.methods.registry import get_method, list_methods, unmet_need


@pytest.mark.parametrize(
    ("name", "macs_g", "noattn_g"),
    [
        ("deit_small_patch16_224", 4.5989, 4.2412),
        ("vit_base_patch16_224", 17.5638, 16.8485),
        ("autoformer_small", 4.8919, 4.5045),
    ],
)
def test_known_costs_are_reproduced(name: str, macs_g: float, noattn_g: float) -> None:
    found = uncompressed(load_structure(name).facts)
    assert found.macs_g == pytest.approx(macs_g, abs=5e-5)
    assert found.macs_noattn_g == pytest.approx(noattn_g, abs=5e-5)
    assert found.flops2x_g == 2 * found.macs_g


def test_autoformer_s_has_its_published_size_with_and_without_relative_positions() -> None:
    facts = load_structure("autoformer_small").facts
    tokens = 1 + facts.num_patches
    inner = [block.inner_width for block in facts.blocks]
    found = uncompressed(facts)
    factorised = sum(tokens * block.position_macs_per_token for block in facts.blocks)
    plain = found.macs - factorised
    dense = plain + sum(2 * tokens * tokens * width for width in inner)  # R built, as published
    assert found.params == 22_891_432
    assert plain / 1e9 == pytest.approx(4.774, abs=5e-4)
    assert dense / 1e9 == pytest.approx(5.161, abs=5e-4)
    assert found.macs_g == pytest.approx(4.892, abs=5e-4)


def test_a_tome_schedule_equals_the_sum_written_out_by_hand() -> None:
    config = CompressionConfig(
        method="tome", reductions=(Reduction(1, num_keep=12), Reduction(2, num_keep=8))
    )
    width, hidden, stem, head = 48, 192, 16 * 48 * 3 * 64, 48 * 10
    attention, mlp = [17, 17, 13, 9], [17, 13, 9, 9]
    products = sum(2 * n * n * width for n in attention)
    linear = stem + head
    linear += sum(4 * n * width * width for n in attention)
    linear += sum(2 * n * width * hidden for n in mlp)
    matching = 8 * 8 * 16 + 6 * 6 * 16  # halves of 16 and of 12 patches, mean keys of 16 channels
    found = cost(tiny_backbone().facts, config)
    assert found.macs == linear + products + matching
    assert found.macs_noattn == linear + matching


def test_the_class_row_costs_only_where_tokens_go_and_attention_is_fused() -> None:
    facts = tiny_backbone().facts

    def macs(method: str, keep: int) -> int:
        reductions = (Reduction(1, num_keep=keep),)
        return cost(facts, CompressionConfig(method=method, reductions=reductions)).macs

    assert macs("topk", 8) - macs("random", 8) == 17 * 48
    assert macs("topk", 16) == macs("random", 16) == uncompressed(facts).macs


@pytest.mark.parametrize("backbone", ["tiny", "autoformer_tiny"])
@pytest.mark.parametrize("method", sorted(set(list_methods()) - {"none"}))
def test_the_vectorised_form_equals_one_by_one(method: str, backbone: str) -> None:
    facts = load_structure(backbone).facts
    if unmet_need(get_method(method), facts):
        pytest.skip(f"{method} does not fit {backbone}")
    cls = get_method(method)
    layers = (0,) if cls.single_layer else (cls.first_layer, 2, 3)
    total = facts.num_patches
    shares = np.array([[0.9, 0.6, 0.5], [0.75, 0.75, 0.7], [1.0, 0.8, 0.45]])[:, : len(layers)]
    counts = (shares * total).astype(np.int64)
    many = schedule_macs(facts, method, {}, layers, counts)
    for row, found in zip(counts, many, strict=True):
        reductions = tuple(Reduction(i, num_keep=int(k)) for i, k in zip(layers, row, strict=True))
        config = CompressionConfig(method=method, reductions=reductions)
        assert cost(facts, config).macs == found


def test_units_follow_from_the_integers() -> None:
    found = Cost(macs=2_300_000_000, macs_noattn=2_100_000_000, params=22_050_664)
    assert (found.macs_g, found.flops2x_g, found.macs_noattn_g) == (2.3, 4.6, 2.1)
    assert found.params_m == pytest.approx(22.050664)
