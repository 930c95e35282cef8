import dataclasses

import pytest
import torch
from hand import reducer, tokens

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.errors import ConfigError
from autotok.methods import TokenReducer, get_method
from autotok.testing import synthetic_facts
from autotok.tokens import Extra, Needs, Taps, Tokens

LINE = torch.tensor([[0.0], [1], [2], [10], [11], [12]])
HEAVY = [1.0, 5, 1, 1, 5, 1]


def made(name: str, **options: Primitive) -> TokenReducer:
    return reducer(name, entering=6, keep=2, options=options)


def weighted(weights: list[float]) -> Tokens:
    extra = Extra(torch.tensor([weights]))
    return dataclasses.replace(tokens(LINE), extras={"pooling_weight": extra})


def kept(out: Tokens) -> list[float]:
    return out.patches[0, :, 0].tolist()


def test_textbook_medoids_lie_in_the_middle_of_their_clusters() -> None:
    out = made("kmedoids").reduce(weighted(HEAVY), Taps(), 2)
    assert sorted(kept(out)) == [1, 11]


def test_the_reference_rule_prefers_light_candidates() -> None:
    out = made("kmedoids", mode="reference").reduce(weighted(HEAVY), Taps(), 2)
    assert kept(out) == [2, 10]


def test_unweighted_clustering_starts_from_tokens_far_apart() -> None:
    out = made("kmedoids", weighted=False, first=0).reduce(tokens(LINE), Taps(), 2)
    assert kept(out) == [1, 11]


def test_means_replace_clusters_and_the_weights_pull_them() -> None:
    plain = made("kmeans", weighted=False, first=0).reduce(tokens(LINE), Taps(), 2)
    torch.testing.assert_close(plain.patches[0, :, 0], torch.tensor([1.0, 11]))
    pulled = made("kmeans").reduce(weighted([1.0, 1, 6, 1, 1, 4]), Taps(), 2)
    means = torch.tensor([13 / 8, (10 + 11 + 4 * 12) / 6])
    torch.testing.assert_close(pulled.patches[0, :, 0], means)


@pytest.mark.parametrize("name", ["kmeans", "kmedoids"])
def test_sizes_are_counted_only_if_asked_for(name: str) -> None:
    assert made(name, weighted=False).reduce(tokens(LINE), Taps(), 2).size is None
    counting = made(name, weighted=False, track_size=True)
    assert counting.proportional_attention
    out = counting.reduce(tokens(LINE), Taps(), 2)
    assert out.sizes().tolist() == [[3, 3]]


def test_no_mean_stands_for_nothing_even_if_many_tokens_are_equal() -> None:
    same = torch.tensor([[0.0], [0], [0], [0], [0], [7]])
    method = reducer("kmeans", entering=6, keep=4, options={"weighted": False, "track_size": True})
    out = method.reduce(tokens(same), Taps(), 4)
    assert out.sizes().min() >= 1
    assert out.sizes().sum() == 6
    assert sorted(kept(out)) == [0, 0, 0, 7]


def test_the_first_token_is_drawn_from_seed_and_layer_and_must_exist() -> None:
    draws = {
        reducer("kmedoids", entering=64, keep=2, layer=layer, options={"seed": seed}).first
        for layer in (1, 2, 3)
        for seed in (0, 1, 2)
    }
    assert len(draws) > 4
    assert all(0 <= d < 64 for d in draws)  # type: ignore[operator]
    with pytest.raises(ConfigError, match="only 6 patch tokens arrive there"):
        made("kmedoids", first=6)


def test_only_the_blocks_before_reduction_layers_are_heard_of() -> None:
    method, facts = get_method("kmedoids"), synthetic_facts(1)
    on, off = method.resolve_options({}), method.resolve_options({"weighted": False})
    assert [bool(method.listens(b, (0, 2, 5), facts, on)) for b in range(6)] == [
        False, True, False, False, True, False,
    ]  # fmt: skip
    assert method.listens(1, (2,), facts, on) == Needs.COLUMN_MEANS
    assert method.listens(1, (2,), facts, off) == Needs.NONE


def test_the_weight_is_attention_summed_over_heads_and_query_rows() -> None:
    method = made("kmedoids")
    means = torch.tensor([[[0.1, 0.3, 0.6], [0.2, 0.4, 0.4]]])  # a class token and two patches
    heard = method.observe(0, tokens(torch.zeros(2, 1)), Taps({"column_means": means}))
    got = heard.extras["pooling_weight"].values
    torch.testing.assert_close(got, torch.tensor([[3 * 0.7, 3 * 1.0]]))


def test_weights_change_a_whole_models_choice_but_not_in_front_of_block_0() -> None:
    backbone = tiny_backbone()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def logits(layer: int, weighted: bool) -> torch.Tensor:
        options: dict[str, Primitive] = {"weighted": weighted}
        config = CompressionConfig("kmedoids", (Reduction(layer, num_keep=5),), options)
        with torch.no_grad():
            return compress_backbone(backbone, config)(images)

    assert not torch.allclose(logits(2, True), logits(2, False))
    assert torch.equal(logits(0, True), logits(0, False))
