"""What a device measures first: few, of different kinds, near where budgets lie."""

import dataclasses

from problems import fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.methods.base import Count
from autotok.methods.registry import get_method
from autotok.searching.running.early_configs import early_configs
from autotok.searching.space.problem import ExactCosts


def test_the_uncompressed_model_and_two_kinds_of_method_are_measured_first() -> None:
    found = list(early_configs(fake_problem("50%")))
    assert found[0] == CompressionConfig()
    methods = [get_method(config.method) for config in found[1:]]
    assert len({method.kind for method in methods}) == len(methods) == 2
    assert all(m.exportable and m.count is Count.STATIC for m in methods)


def test_a_tight_budget_does_not_move_them() -> None:
    costs = ExactCosts(vit_facts())
    whole = costs.cost(CompressionConfig()).macs
    for budget in ("35%", "90%"):
        found = list(early_configs(fake_problem(budget, facts=vit_facts())))
        shares = [costs.cost(config).macs / whole for config in found[1:]]
        assert all(0.5 < share <= 0.6 for share in shares)  # at most the cost aimed at


def test_each_is_measured_in_every_number_format_of_the_space() -> None:
    problem = fake_problem("50%")
    space = dataclasses.replace(problem.space, number_formats=("float32", "int8"))
    found = list(early_configs(dataclasses.replace(problem, space=space)))
    assert [config.number_format for config in found] == ["float32", "int8"] * 3
    assert [c.method for c in found[::2]] == [c.method for c in found[1::2]]
