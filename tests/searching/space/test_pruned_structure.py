"""What pruning may leave: three questions, sizes that hardware likes, the least important first."""

import dataclasses
from itertools import pairwise, product
from pathlib import Path

import pytest
from problems import FakeEvaluator, fake_problem
from test_search_space import random_chooser

from autotok.backbones.importance import Importance
from autotok.backbones.loading import load_structure
from autotok.backbones.pruning import pruned_facts
from autotok.compression.compress import compress_backbone
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig
from autotok.counting.counter import count_macs
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.pruned_spec import PrunedSpec, listed_units
from autotok.searching.proposing.repair import repair
from autotok.searching.running.opening import run_search
from autotok.searching.space.problem import Problem
from autotok.searching.space.pruned_structure import PrunedStructure, kept_groups, mlp_step
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space, space_from_dict

BACKBONE = load_structure("deit_tiny_patch16_224")
FACTS = BACKBONE.facts
RANKING = Importance(
    tuple(tuple((7 * b + 5 * h) % 11 + 1.0 for h in range(3)) for b in range(12)),
    tuple(tuple((31 * b + 17 * u) % 101 + 1.0 for u in range(768)) for b in range(12)),
    tuple((5 * b) % 12 + 1.0 for b in range(12)),
    8,
)
STRUCTURE = PrunedStructure.of(FACTS, RANKING, lambda spec: pruned_facts(BACKBONE, spec))


def problem(budget: str = "50%") -> Problem:
    space = dataclasses.replace(load_space("default"), structure=STRUCTURE)
    return fake_problem(budget, facts=FACTS, space=space, evaluate=FakeEvaluator(FACTS))


def test_sizes_are_whole_heads_and_steps_of_units_and_answers_come_back() -> None:
    seen = set()
    for depth, heads, mlp in product((6, 9, 12), STRUCTURE.heads_choices, STRUCTURE.mlp_choices):
        params = {"subnet.depth": depth, "subnet.heads": heads, "subnet.mlp": mlp}
        spec = STRUCTURE.subnet(params)
        assert spec.depth == depth
        assert min(spec.widths) >= 64
        assert {w % 64 for w in spec.widths} == {0}
        assert sum(spec.widths) == pytest.approx(mlp * depth * 768, abs=33)
        assert min(map(len, spec.heads)) >= 1
        assert STRUCTURE.params(spec) == params
        seen.add(spec)
    assert len(seen) == 3 * 6 * 6
    assert STRUCTURE.canonical(STRUCTURE.subnet(STRUCTURE.params(STRUCTURE.default))) is None


def test_the_least_important_goes_first_wherever_it_is() -> None:
    assert kept_groups([[1.0, 9.0, 2.0], [8.0, 7.0, 3.0]], 0.5, step=1) == [[1], [0, 1]]
    assert kept_groups([[1.0, 2.0], [9.0, 8.0]], 0.1, step=1) == [[1], [0]]
    assert kept_groups([[1.0, 5.0, 6.0, 2.0], [3.0] * 4], 0.75, step=2) == [[1, 2], [0, 1, 2, 3]]
    shallow = STRUCTURE.subnet({"subnet.depth": 6, "subnet.heads": 1.0, "subnet.mlp": 1.0})
    least = min(RANKING.blocks[b] for b in shallow.blocks)
    assert all(RANKING.blocks[b] < least for b in range(12) if b not in shallow.blocks)
    assert (mlp_step(192), mlp_step(768)) == (32, 64)
    units = listed_units(
        STRUCTURE.subnet({"subnet.depth": 12, "subnet.heads": 1.0, "subnet.mlp": 0.5}).units[0]
    )
    dropped = set(range(768)) - set(units)
    assert max(RANKING.units[0][u] for u in dropped) <= min(RANKING.units[0][u] for u in units)


def test_shrinking_makes_it_cheaper_at_each_step_down_to_the_smallest() -> None:
    path = STRUCTURE.shrunk(STRUCTURE.default)
    costs = [cost(STRUCTURE.facts(spec), CompressionConfig()).macs for spec in path]
    assert all(a > b for a, b in pairwise(costs))
    assert STRUCTURE.params(path[-1]) == {
        "subnet.depth": 6,
        "subnet.heads": 0.375,
        "subnet.mlp": 0.375,
    }


def test_the_formula_equals_the_counter_for_proposals_of_structure_and_tokens() -> None:
    found, pruned_ones = problem("70%"), 0
    for seed in range(4):
        params = found.space.walk(random_chooser(seed), FACTS)
        fixed = repair(found.space.decode(params, FACTS), float(params["budget_fraction"]), found)
        assert fixed.config is not None
        pruned_ones += fixed.config.subnet is not None
        facts = STRUCTURE.facts(fixed.config.subnet)
        assert realise(fixed.config, facts).readout <= FACTS.num_patches
        assert cost(facts, fixed.config).macs <= found.budgets[0].limit
        plain = dataclasses.replace(fixed.config, method="none", reductions=(), options={})
        assert cost(facts, plain).macs == count_macs(compress_backbone(BACKBONE, plain))
    assert pruned_ones > 2


def test_a_search_finds_structures_inside_the_budget(tmp_path: Path) -> None:
    result = run_search(SearchSettings(n_trials=10), problem(), tmp_path / "run")
    done = [r for r in result.records if r.config is not None and r.costs is not None]
    assert any(isinstance(r.config and r.config.subnet, PrunedSpec) for r in done)
    assert all(r.within_budget for r in result.front)
    assert "blocks, heads" in (tmp_path / "run" / "trials.csv").read_text()


def test_a_space_file_may_ask_for_structure() -> None:
    assert space_from_dict({"subnet": "search"}).subnet == "search"
    assert load_space("default").subnet == "fixed"
    with pytest.raises(ConfigError, match="subnet: 'serach' is unknown; did you mean 'search'"):
        space_from_dict({"subnet": "serach"})
