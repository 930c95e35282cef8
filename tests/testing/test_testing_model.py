"""Every registered method inside a model."""

from collections.abc import Callable
from typing import Any

import pytest

from autotok.backbones.base import Backbone
from autotok.methods import TokenReducer, get_method, list_methods, unmet_need
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
    """Every check on every backbone; of the exports, which take seconds, those of `tiny`."""
    return [
        pytest.param(check, backbone, id=f"{backbone.facts.name}-{named(check)}")
        for backbone in default_backbones()
        for check in MODEL_CHECKS
        if check is not check_export or backbone.facts.name == "tiny"
    ]


def everywhere() -> list[Any]:
    """Every method and check on `tiny` and, in turn, on one of the further backbones; CI runs all
    of them on all."""
    further = [backbone.facts.name for backbone in default_backbones()[1:]]
    found = []
    for number, method in enumerate(list_methods()):
        for case in on_backbones():
            check, backbone = case.values
            often = backbone.facts.name in ("tiny", further[number % len(further)])
            marks = () if often else (pytest.mark.slow,)
            found.append(
                pytest.param(method, check, backbone, id=f"{method}-{case.id}", marks=marks)
            )
    return found


@pytest.mark.parametrize(("method", "check", "backbone"), everywhere())
def test_a_compressed_model_keeps_its_promises(
    method: str, check: ModelCheck, backbone: Backbone
) -> None:
    assert check(get_method(method), backbone) is None  # type: ignore[func-returns-value]


def exports_elsewhere() -> list[Any]:
    """Every exportable method on one of the further backbones, in turn, and on each of them one
    method of every need: by those alone a backbone's part of the graph differs. An AutoFormer has
    no turn: test_exported.py exports every method on one."""
    found, seen = [], set[object]()
    further = default_backbones()[1:]
    methods = [m for m in list_methods() if get_method(m).exportable]
    for number, method in enumerate(methods):
        for place, backbone in enumerate(further):
            if unmet_need(get_method(method), backbone.facts) is not None:
                continue
            group = place, get_method(method).needs, get_method(method).count
            turn = number % len(further) == place and backbone.facts.name != "tiny_autoformer"
            if group not in seen or turn:
                found.append(pytest.param(method, backbone, id=f"{method}-{backbone.facts.name}"))
            seen.add(group)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("method", "backbone"), exports_elsewhere())
def test_an_export_keeps_the_logits_on_further_backbones(method: str, backbone: Backbone) -> None:
    assert check_export(get_method(method), backbone) is None  # type: ignore[func-returns-value]


def test_example_configurations_reduce_twice_unless_the_method_reduces_once() -> None:
    facts = synthetic_facts(1)
    assert len(example_config(get_method("tome"), facts).reductions) == 2
    assert len(example_config(get_method("ltp"), facts).reductions) == 1
    assert example_config(get_method("none"), facts).reductions == ()
