"""Regressors of single operators, by hand."""

import pytest

import autotok.methods  # noqa: F401
from autotok.backbones.tiny import tiny_backbone
from autotok.counting.operators import OperatorClass
from autotok.predicting.latency_model import features_of
from autotok.predicting.regressors import FEATURES, operator_features
from autotok.predicting.trace import trace


def test_a_linear_layer_counts_its_operands_and_whole_tiles_of_rows() -> None:
    found = operator_features(
        "addmm", OperatorClass.MATMUL, [(30,), (17, 10), (10, 30)], [(17, 30)], touched=0, macs=5100
    )
    assert found == {
        "linear.calls": 1,
        "linear.macs": 5100,
        "linear.tiles": 32 * 300,
        "linear.input": 170,
        "linear.weight": 300,
        "linear.output": 510,
    }


def test_batched_products_count_their_matrices() -> None:
    shapes = [(6, 17, 64), (6, 64, 17)]
    found = operator_features("bmm", OperatorClass.MATMUL, shapes, [(6, 17, 17)], touched=0, macs=1)
    assert found["batched.matrices"] == 6
    assert found["batched.output"] == 6 * 17 * 17


def test_masked_attention_counts_its_map_once_more() -> None:
    heads = [(1, 6, 17, 64)] * 3
    plain, masked = (
        operator_features("sdpa", OperatorClass.ATTENTION, inputs, [], touched=0, macs=1)
        for inputs in (heads, [*heads, (1, 1, 17, 17)])
    )
    assert plain["attention.map"] == masked["attention.masked"] == 6 * 17 * 17
    assert plain["attention.masked"] == 0


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("native_layer_norm", OperatorClass.REDUCTION, "norm"),
        ("_softmax", OperatorClass.REDUCTION, "softmax"),
        ("sum", OperatorClass.REDUCTION, "reduction"),
        ("argmax", OperatorClass.REDUCTION, "search"),
        ("gelu", OperatorClass.ELEMENTWISE, "costly"),
        ("where", OperatorClass.ELEMENTWISE, "choice"),
        ("add", OperatorClass.ELEMENTWISE, "pointwise"),
        ("gather", OperatorClass.GATHER, "gather"),
        ("scatter_add", OperatorClass.GATHER, "scatter"),
        ("cat", OperatorClass.COPY, "copy"),
        ("topk", OperatorClass.SORT, "sort"),
        ("fft_r2c", OperatorClass.OTHER, "other"),
    ],
)
def test_operators_that_take_alike_share_a_family(
    name: str, kind: OperatorClass, family: str
) -> None:
    found = operator_features(name, kind, [(4, 8)], [(4, 8)], touched=256, macs=0)
    assert found[f"{family}.calls"] == 1
    assert {key.split(".")[0] for key in found} == {family}


def test_pooled_tokens_crowd_only_where_they_are_added_up() -> None:
    def at(name: str, *, crowded: bool) -> dict[str, object]:
        shapes = [(4, 8)]
        return dict(
            operator_features(
                name, OperatorClass.GATHER, shapes, shapes, touched=256, macs=0, crowded=crowded
            )
        )

    assert at("scatter_add", crowded=True)["scatter.crowded_bytes"] == 256
    assert at("gather", crowded=True) == at("gather", crowded=False)


def test_every_regressor_of_a_model_has_a_place() -> None:
    found = features_of(trace(tiny_backbone()).operators, pooled=False)
    assert set(found) <= set(FEATURES)
    assert found["norm.calls"] == 2 * 4 + 1
    assert found["linear.macs"] > 0
