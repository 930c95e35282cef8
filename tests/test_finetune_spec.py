"""How long and how a fine-tune goes, as plain data: what is given comes back, what cannot be is
named."""

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotok.errors import ConfigError
from autotok.finetune_spec import FineTuneSpec, Length


@given(
    st.sampled_from(["steps", "epochs", "minutes"]),
    st.integers(1, 10**12) | st.floats(1e-9, 1e9),
)
def test_a_length_reads_back_what_it_writes(unit: str, amount: float) -> None:
    amount = round(amount) or 1 if unit == "steps" else amount
    length = Length.parse(f"{amount} {unit}")
    assert (length.amount, length.unit) == (amount, unit)
    assert Length.parse(str(length)) == length


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (200, "200 steps"),
        ("1 epoch", "1 epochs"),
        ("0.5 epochs", "0.5 epochs"),
        ("7", "7 steps"),
        ("1234567 steps", "1234567 steps"),
    ],
)
def test_lengths_may_be_written_short(text: str | int, found: str) -> None:
    assert str(Length.parse(text)) == found


@pytest.mark.parametrize("text", ["", "0 steps", "-1 epochs", "1.5 steps", "3 weeks", "inf steps"])
def test_what_is_no_length_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="give '200 steps', '3 epochs' or"):
        FineTuneSpec(length=text)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"lr": 1e-4, "losses": {"ce": 0.5, "soft": 1.0}, "seed": 3},
        {"mixup": 0.8, "randaugment": "rand-m9-mstd0.5-inc1", "teacher": "resnet50"},
    ],
)
def test_what_is_given_comes_back_and_nothing_else(said: dict[str, Any]) -> None:
    spec = FineTuneSpec(**said)
    assert set(spec.to_dict()) == {"length", "losses", *said}
    for same in (
        FineTuneSpec.from_dict(spec.to_dict()),
        copy.deepcopy(spec),
        pickle.loads(pickle.dumps(spec)),
    ):
        assert same == spec
        assert hash(same) == hash(spec)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"losses": {}}, "losses are empty"),
        ({"losses": {"soft": 0.0}}, "weight of fine-tune loss 'soft' is 0.0"),
        ({"losses": {"soft": float("inf")}}, "'soft' is inf; give a number above 0"),
        ({"lr": 2.0}, "lr is 2.0; it must be within 1e-08 to 1.0 or 'auto'"),
        ({"batch_size": 0}, "batch_size is 0; it must be within 1 to 65536"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_what_cannot_be_is_named_with_what_may(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FineTuneSpec(**said)


def test_an_unknown_key_and_a_rate_that_is_left_to_the_probe() -> None:
    assert FineTuneSpec.from_dict({"lr": "auto"}).lr is None
    with pytest.raises(ConfigError, match="did you mean 'warmup'"):
        FineTuneSpec.from_dict({"warm_up": 0.1})
