"""The realised schedule: counts by placement, and what cannot be reached is refused."""

import itertools
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.errors import ConfigError
from autotok.methods import registry
from autotok.methods.base import Kind, Placement, TokenReducer
from autotok.methods.registry import register

FACTS = tiny_backbone().facts  # 4 blocks, 16 patches


@pytest.fixture(autouse=True)
def toy_methods() -> Iterator[None]:
    before = registry.METHODS.names()

    class Toy(TokenReducer):
        title, kind = "toy", Kind.PRUNE

        @classmethod
        def feasible(cls, entering: int, options: Mapping[str, Primitive]) -> tuple[int, int]:
            return entering - entering // 2, entering

    for placement in Placement:
        register(f"toy_{placement.name.lower()}")(
            type(f"Toy{placement.name}", (Toy,), {"placement": placement})
        )
    yield
    for name in set(registry.METHODS.names()) - set(before):
        registry.METHODS.discard(name)


def config(method: str, **keep: int | float) -> CompressionConfig:
    return CompressionConfig(
        method,
        tuple(
            Reduction(int(layer[1:]), num_keep=value)
            if isinstance(value, int)
            else Reduction(int(layer[1:]), keep_ratio=value)
            for layer, value in keep.items()
        ),
    )


def test_mid_block_attention_pays_the_incoming_count_and_the_mlp_the_outgoing() -> None:
    schedule = realise(config("toy_mid", l1=10, l2=6), FACTS)
    assert schedule.attention == (16, 16, 10, 6)
    assert schedule.mlp == (16, 10, 6, 6)
    assert (schedule.kept, schedule.readout) == ((10, 6), 6)


def test_before_a_block_both_pay_the_outgoing_count() -> None:
    schedule = realise(config("toy_before", l1=10), FACTS)
    assert schedule.attention == schedule.mlp == (16, 10, 10, 10)


def test_after_a_block_both_pay_the_incoming_count() -> None:
    schedule = realise(config("toy_after", l1=10), FACTS)
    assert schedule.attention == schedule.mlp == (16, 16, 10, 10)
    assert realise(config("toy_after", l3=10), FACTS).readout == 10


def test_keep_ratios_are_relative_to_the_initial_patches() -> None:
    assert realise(config("toy_mid", l0=0.7, l2=0.5), FACTS).kept == (12, 8)  # ceil(11.2), 8


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (config("toy_mid", l4=8), r"layer 4 cannot reduce: .* 4 blocks \(0-3\)"),
        (config("toy_mid", l1=17), "only 16 arrive"),
        (config("toy_mid", l0=10, l1=12), "only 10 arrive"),
        (config("toy_mid", l1=7), "feasible: 8 to 16, that is keep_ratio 0.500 to 1.000"),
        (config("toy_before_blocks", l1=8), "its layer must be 0"),
        (CompressionConfig("toy_mid", (Reduction(1),)), "neither keep_ratio nor num_keep"),
        (CompressionConfig("toy_mid", (Reduction(1, num_keep=9),), {"alpha": 1}), "'alpha'"),
    ],
)
def test_what_cannot_be_is_refused_naming_what_can(wrong: CompressionConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        realise(wrong, FACTS)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'toy_mid'"):
        realise(config("toy_mdi", l1=9), FACTS)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4))
def test_counts_never_rise_and_never_leave_the_range(percents: list[int]) -> None:
    ratios = sorted((p / 100 for p in percents), reverse=True)
    chosen = CompressionConfig(
        "toy_after", tuple(Reduction(i, keep_ratio=r) for i, r in enumerate(ratios))
    )
    wanted = [16, *(-(-p * 16 // 100) for p in sorted(percents, reverse=True))]
    if any(keep < entering - entering // 2 for entering, keep in itertools.pairwise(wanted)):
        with pytest.raises(ConfigError, match="feasible"):
            realise(chosen, FACTS)
        return
    schedule = realise(chosen, FACTS)
    assert [16, *schedule.kept] == wanted
    counts = [16, *schedule.kept]
    assert all(1 <= b <= a for a, b in itertools.pairwise(counts))
    assert len(schedule.attention) == len(schedule.mlp) == FACTS.num_blocks
