"""What engines take is data with a source, and a file is held against it."""

from autotok.export.engines import engine_table, engine_verdicts


def test_every_engine_names_its_source_and_lists_operators_once() -> None:
    for engine in engine_table():
        assert engine.source.startswith("https://")
        assert len(set(engine.takes)) == len(engine.takes) > 50
        assert set(engine.limits) <= set(engine.takes)


def test_an_older_engine_says_all_that_stands_against_a_file() -> None:
    found = engine_verdicts(["MatMul", "LayerNormalization", "Gelu"], 20)
    assert found["tensorrt-8.5"] == (
        "no: operator set 20 is above its 17, no Gelu, no LayerNormalization"
    )
    assert found["tensorrt-10"] == found["openvino"] == "yes"


def test_what_an_engine_asks_of_an_operator_is_told() -> None:
    found = engine_verdicts(["MatMul", "QuantizeLinear"], 13)
    assert found["tensorrt-8.5"] == "yes, where QuantizeLinear: its zero point must be 0"
