import pytest
import torch
from hand import attended, reducer, tokens

from autotok.errors import IncompatibleMethod
from autotok.methods import get_method
from autotok.testing import default_backbones, synthetic_facts
from autotok.tokens import Needs

PATCHES = torch.tensor([[10.0], [11], [12], [13]])


def test_the_most_attended_stay_by_falling_score() -> None:
    method = reducer("topk", entering=4, keep=2)
    taps = attended("cls_attention", [0.9, 0.0, 0.4, 0.1, 0.2], [0.1, 0.5, 0.2, 0.0, 0.1])
    out = method.reduce(tokens(PATCHES), taps, 2)
    assert out.x[0, :, 0].tolist() == [-1, 11, 10]  # 0.3 and 0.25


def test_prefix_tokens_are_not_ranked() -> None:
    method = reducer("topk", entering=4, keep=1, num_prefix=2)
    taps = attended("cls_attention", [0.5, 0.9, 0.1, 0.1, 0.3, 0.1])
    out = method.reduce(tokens(PATCHES, num_prefix=2), taps, 1)
    assert out.x[0, :, 0].tolist() == [-1, -1, 12]


def test_column_means_stand_in_where_the_class_token_is_no_judge() -> None:
    method = get_method("topk")
    options = method.resolve_options({})
    autoformer = default_backbones()[3].facts
    assert autoformer.has_cls
    assert not autoformer.cls_is_supervised
    assert method.resolve_needs(autoformer, options) == Needs.COLUMN_MEANS
    assert method.resolve_needs(synthetic_facts(0), options) == Needs.COLUMN_MEANS
    assert method.resolve_needs(synthetic_facts(1), options) == Needs.CLS_ATTENTION
    assert method.notes(autoformer, options) == (
        "score: attention column means (mean over all query rows)",
    )
    assert method.notes(synthetic_facts(1), options) == ("score: class-token attention",)


def test_the_score_can_be_chosen() -> None:
    method = get_method("topk")
    column, cls = (method.resolve_options({"score": word}) for word in ("column", "cls"))
    assert method.resolve_needs(synthetic_facts(1), column) == Needs.COLUMN_MEANS
    assert method.resolve_needs(default_backbones()[3].facts, cls) == Needs.CLS_ATTENTION
    with pytest.raises(IncompatibleMethod, match="'topk' is 'cls', which needs a class token"):
        method.resolve_needs(synthetic_facts(0), cls)


def test_column_means_rank_as_the_class_row_does() -> None:
    method = reducer("topk", entering=4, keep=2, options={"score": "column"})
    taps = attended("column_means", [0.2, 0.1, 0.3, 0.05, 0.35])
    assert method.reduce(tokens(PATCHES), taps, 2).x[0, :, 0].tolist() == [-1, 13, 11]
