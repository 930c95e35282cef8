"""Every registered method inside a model."""

from collections.abc import Callable
from typing import Any

import pytest

from autotok.backbones.base import Backbone
from autotok.methods import TokenReducer, get_method, list_methods
from autotok.testing import (
    MODEL_CHECKS,
    default_backbones,
    example_config,
    synthetic_facts,
)
from autotok.testing import reduction_case as reduction_case
from autotok.testing.model import check_export

ModelCheck = Callable[[type[TokenReducer], Backbone], None]


def named(check: object) -> str:
    return getattr(check, "__name__", str(check)).removeprefix("check_")


def on_backbones() -> list[Any]:
    """Every check on every backbone; an export takes seconds, so that the default run has those of
    `tiny`, and the whole matrix is among the slow ones."""
    return [
        pytest.param(
            check,
            backbone,
            id=f"{backbone.facts.name}-{named(check)}",
            marks=[pytest.mark.slow] * (check is check_export and backbone.facts.name != "tiny"),
        )
        for backbone in default_backbones()
        for check in MODEL_CHECKS
    ]


@pytest.mark.parametrize(("check", "backbone"), on_backbones())
@pytest.mark.parametrize("method", list_methods())
def test_a_compressed_model_keeps_its_promises(
    method: str, check: ModelCheck, backbone: Backbone
) -> None:
    assert check(get_method(method), backbone) is None  # type: ignore[func-returns-value]


def test_example_configurations_reduce_twice_unless_the_method_reduces_once() -> None:
    facts = synthetic_facts(1)
    assert len(example_config(get_method("tome"), facts).reductions) == 2
    assert len(example_config(get_method("ltp"), facts).reductions) == 1
    assert example_config(get_method("none"), facts).reductions == ()
