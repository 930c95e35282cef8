"""Structure and tokens together: every subnet reachable, every budget met, one name per model."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import FakeEvaluator, fake_problem
from test_search_space import random_chooser

from autotok.backbones.autoformer import subnet_facts
from autotok.backbones.demo import DEMO_SPEC, DEMO_SUBNET
from autotok.compression.schedule import realise
from autotok.config import SubnetSpec
from autotok.counting.macs import cost
from autotok.searching.proposing.repair import repair
from autotok.searching.running.opening import run_search
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space
from autotok.searching.space.subnets import Structure

STRUCTURE = Structure(
    DEMO_SPEC.embed_choices,
    DEMO_SPEC.depth_choices,
    DEMO_SPEC.heads_choices,
    DEMO_SPEC.mlp_ratio_choices,
    DEMO_SUBNET,
    lambda subnet: subnet_facts(DEMO_SPEC, subnet, name="autoformer_demo"),
)
FACTS = STRUCTURE.facts(None)


def joint_problem(budget: str = "50%", **changes: object) -> Problem:
    space = dataclasses.replace(load_space("default"), structure=STRUCTURE, **changes)  # type: ignore[arg-type]
    return fake_problem(budget, facts=FACTS, space=space, evaluate=FakeEvaluator(FACTS))


def test_shrinking_goes_down_to_the_smallest_and_only_ever_down() -> None:
    path = STRUCTURE.shrunk(DEMO_SUBNET)
    assert path[0] == DEMO_SUBNET
    assert path[-1] == DEMO_SPEC.smallest()
    costs = [STRUCTURE.facts(subnet).params for subnet in path]
    assert all(a > b for a, b in pairwise(costs))
    assert STRUCTURE.shrunk(DEMO_SPEC.smallest()) == [DEMO_SPEC.smallest()]


def test_parameters_and_subnets_are_two_forms_of_one_thing() -> None:
    for subnet in STRUCTURE.shrunk(DEMO_SUBNET):
        assert STRUCTURE.subnet(STRUCTURE.params(subnet)) == subnet
    assert STRUCTURE.canonical(DEMO_SUBNET) is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), percent=st.integers(15, 95))
def test_every_joint_proposal_is_repaired_into_the_budget(seed: int, percent: int) -> None:
    problem = joint_problem(f"{percent}%")
    params = problem.space.walk(random_chooser(seed), FACTS)
    shape = problem.space.decode(params, FACTS)
    found = repair(shape, float(params["budget_fraction"]), problem)
    if found.config is None:
        assert found.violation > 0.0
        return
    facts = STRUCTURE.facts(found.config.subnet)
    assert cost(facts, found.config).macs <= problem.budgets[0].limit
    realise(found.config, facts)


def test_a_budget_can_be_met_by_structure_alone_by_tokens_alone_or_by_both() -> None:
    problem = joint_problem("60%")
    seen = set()
    for seed in range(200):
        params = problem.space.walk(random_chooser(seed), FACTS)
        found = repair(problem.space.decode(params, FACTS), 1.0, problem)
        if found.config is not None:
            seen.add((found.config.subnet is not None, bool(found.config.reductions)))
    assert (True, False) in seen
    assert (True, True) in seen
    tokens = joint_problem("60%", exclude=("random",))
    params = {**tokens.space.encode("topk", (3, 6), (0.5, 0.25), FACTS)}
    found = repair(tokens.space.decode(params, FACTS), 1.0, tokens)
    assert found.config is not None
    assert found.config.subnet is None
    assert found.config.reductions


def test_structure_alone_meets_the_asked_share_of_the_budget() -> None:
    problem = joint_problem("90%")
    params = problem.space.encode("none", (), (), FACTS)
    macs = []
    for fraction in (0.0, 0.5, 1.0):
        found = repair(problem.space.decode(params, FACTS), fraction, problem)
        assert found.costs is not None
        macs.append(found.costs.macs)
    assert macs == sorted(macs)
    smallest = cost(STRUCTURE.facts(DEMO_SPEC.smallest()), found.config.__class__()).macs  # type: ignore[union-attr]
    assert macs[0] == smallest
    assert macs[-1] <= problem.budgets[0].limit


def test_a_joint_search_ends_with_a_front_inside_the_budget(tmp_path: Path) -> None:
    problem = joint_problem("50%", mode=("plug-in",))
    result = run_search(SearchSettings(n_trials=30), problem, tmp_path / "run")
    assert result.evaluated == 30
    assert any(r.config is not None and r.config.subnet is not None for r in result.records)
    assert all(r.within_budget for r in result.front)
    assert (
        len({r.config.config_id for r in result.records if r.state == "complete" and r.config})
        == 30
    )


def test_the_default_space_without_structure_has_no_subnets() -> None:
    params = load_space("default").walk(random_chooser(0), FACTS)
    assert not [name for name in params if name.startswith("subnet")]


@pytest.mark.parametrize("depth", DEMO_SPEC.depth_choices)
def test_layers_beyond_a_shallower_subnet_are_left_out(depth: int) -> None:
    problem = joint_problem("30%")
    subnet = SubnetSpec(144, (3,) * 12, (4.0,) * 12)
    params = problem.space.encode("topk", (2, 6, 11), (0.9, 0.8, 0.7), FACTS, subnet=subnet)
    shallow = {**params, "subnet.depth": depth}
    found = repair(problem.space.decode(shallow, FACTS), 1.0, problem)
    assert found.config is not None
    assert max(r.layer for r in found.config.reductions) < depth
