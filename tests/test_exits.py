"""`ExitPolicy`: what it takes, what it refuses, and that configurations carry it."""

import math
import pickle
from typing import Any

import pytest

from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy


def test_a_configuration_without_exits_is_what_it_was() -> None:
    assert "exits" not in CompressionConfig().to_dict()


@pytest.mark.parametrize(
    "policy",
    [
        ExitPolicy((1, 3)),
        ExitPolicy((1, 3), ("metr", "local"), threshold=(0.4, 0.7)),
        ExitPolicy((1, 2, 3, 4), ("lgvit",), criterion="entropy"),
        ExitPolicy((1,), criterion="patience", patience=2),
        ExitPolicy((1,), criterion="patient_confident"),
    ],
)
def test_it_survives_json_and_pickle(policy: ExitPolicy) -> None:
    config = CompressionConfig(exits=policy)
    again = CompressionConfig.from_json(config.to_json())
    assert again == config
    assert again.config_id != CompressionConfig().config_id
    assert pickle.loads(pickle.dumps(config)) == config


def test_lgvits_kinds_are_spelled_out() -> None:
    kinds = ExitPolicy(tuple(range(3, 11)), ("lgvit",)).kinds
    assert kinds == ("local-dw",) * 2 + ("local",) * 2 + ("global-2",) * 2 + ("global-3",) * 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"layers": ()}, r"exits at layers \[\] are not understood"),
        ({"layers": (3, 1)}, r"exits at layers \[3, 1\] are not understood"),
        ({"layers": (1, 2, 3), "kinds": ("lgvit",)}, "no 3 exits; give 2, 4, 6 or 8"),
        ({"kinds": ("liner",)}, "'liner' is unknown; did you mean 'linear'"),
        ({"kinds": ("lgvitt",)}, "'lgvitt' is unknown; did you mean 'lgvit'"),
        ({"kinds": ("local",) * 3}, "3 exit kinds are given for 2 exits"),
        ({"criterion": "sure"}, "criterion 'sure' is unknown"),
        ({"threshold": (0.1, 0.2, 0.3)}, "3 exit thresholds are given for 2 exits"),
        ({"criterion": "patience", "threshold": (0.1,)}, "'patience' has no threshold"),
        ({"threshold": (80,)}, "exit threshold 80 is none; give a probability, 0 to 1"),
        ({"threshold": (math.nan,)}, "exit threshold nan is none"),
        ({"criterion": "entropy", "threshold": (math.inf,)}, "inf is none; give an entropy"),
        ({"threshold": "high"}, "exit threshold 'high' is none; give a number"),
        ({"threshold": None}, "threshold of exits is None; give one, or a list"),
        ({"layers": None}, "layers of exits is None; give one, or a list"),
        ({"layers": (1.5,)}, "a layer of exits is 1.5; give a whole number"),
        ({"layers": (True,)}, "a layer of exits is True; give a whole number"),
        ({"kinds": 3}, "exit kind '3' is unknown"),
        ({"criterion": "patience", "patience": "2"}, "patience of exits is '2'; give a whole"),
        ({"mean_macs": "1e9"}, "mean_macs '1e9' of exits is no cost"),
        ({"patience": 2}, "patience 2 means nothing under exit criterion 'confidence'"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ExitPolicy(**{"layers": (1, 3), **given})


def test_one_alone_is_as_good_as_a_list_of_one() -> None:
    assert ExitPolicy(1, "metr", threshold=0.7) == ExitPolicy((1,), ("metr",), threshold=(0.7,))  # type: ignore[arg-type]
    assert ExitPolicy((1, 3), threshold=0.7).thresholds == (0.7, 0.7)  # type: ignore[arg-type]
