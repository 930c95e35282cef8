"""Budgets that nothing meets are told before the search, with the nearest that can be met."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
from problems import fake_problem, vit_facts
from test_subnets import STRUCTURE

from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.errors import ConfigError, InfeasibleBudget
from autotok.metrics import METRICS
from autotok.searching.proposing.feasible import (
    _at_corner,
    _corners,
    check_budgets,
    idle_budgets,
    within_sizes,
)
from autotok.searching.running.opening import run_search
from autotok.searching.space.budget import parse_budget
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space

FACTS = vit_facts()


def latency(config: CompressionConfig) -> Mapping[str, float]:
    macs = cost(FACTS, config).macs
    return {"latency_ms": 2.0 + macs / 1e8, "peak_memory_mb": 100.0 + macs / 1e8}


def test_a_hopeless_budget_names_the_nearest_feasible_one() -> None:
    problem = fake_problem("10MFLOPs")
    with pytest.raises(InfeasibleBudget, match=r"cannot be met.*ask for 0\.\d+GMACs or more"):
        check_budgets(problem)
    check_budgets(fake_problem("5%"))


def test_a_hopeless_latency_names_the_nearest_feasible_one() -> None:
    with pytest.raises(InfeasibleBudget, match=r"ask for \d\.\d+ms or more"):
        check_budgets(fake_problem("1ms", predict=latency))


def slower_compressed(config: CompressionConfig) -> Mapping[str, float]:
    return {"throughput_img_s": 300.0 if config.reductions else 325.94}


def test_a_budget_that_only_the_uncompressed_model_meets_is_feasible() -> None:
    check_budgets(fake_problem("310img/s", predict=slower_compressed))


def test_a_hopeless_throughput_names_the_most_there_is() -> None:
    with pytest.raises(InfeasibleBudget) as raised:
        check_budgets(fake_problem("400img/s", predict=slower_compressed))
    assert (
        "400 img/s = at least 400.0 images per second on the target, cannot be met: the fastest"
        " configuration of the space (none) reaches 325.9 images per second on the target at most;"
        " ask for 325.9img/s or less" in str(raised.value)
    )


def test_a_throughput_that_limits_nothing_is_to_be_larger() -> None:
    (sentence,) = idle_budgets(fake_problem("200img/s", predict=slower_compressed))
    assert "reaches 325.9 images per second on the target; give a larger one" in sentence


def test_too_few_parameters_are_hopeless_whatever_the_tokens() -> None:
    with pytest.raises(InfeasibleBudget, match=r"21\.24Mparams or more"):
        check_budgets(fake_problem("2Mparams"))


@pytest.mark.parametrize("value", [3.82944e-4, 0.149, 1.0, 2.30001, 382944.0, 99.996])
def test_a_suggested_budget_is_never_below_what_is_needed(value: float) -> None:
    suggested = parse_budget(METRICS["latency_ms"].nearest_budget(value)).amount
    assert value <= suggested <= 1.001 * value
    suggested = parse_budget(METRICS["throughput_img_s"].nearest_budget(value)).amount
    assert 0.999 * value <= suggested <= value


SIZED = dataclasses.replace(FACTS, one_size="")
SIZES = dataclasses.replace(load_space("default"), image_sizes=(112, 160, 224))


@pytest.mark.parametrize("method", ["tome", "evit", "dpcknn", "none"])
def test_every_different_corner_is_tried(method: str) -> None:
    problem, every = fake_problem(space=SIZES, facts=SIZED), set()
    ends = itertools.product((False, True), repeat=4)
    for family, corner in itertools.product(problem.space.families, ends):
        chosen = _at_corner(method, family, corner, "", {})
        shape = problem.space.decode(problem.space.walk(chosen, problem.facts), problem.facts)
        every.add((shape.layers, shape.weights, shape.curve))
    found = [(c.shape.layers, c.shape.weights, c.shape.curve) for c in _corners(problem, method)]
    assert len(found) == len(every)
    assert set(found) == every


def test_a_size_whose_cheapest_shape_is_over_the_budget_is_not_proposed() -> None:
    problem = fake_problem("1.2GFLOPs", facts=SIZED, space=SIZES)
    space = within_sizes(problem).space
    limit = problem.budgets[0].limit
    whole = {side: cost(SIZED, CompressionConfig(image_size=side)).macs for side in (112, 160)}
    assert whole[112] <= limit < whole[160]
    assert space.sides_of("none") == (112,)
    assert space.sides_of("tome") == (112, 160, 224)
    tight = within_sizes(fake_problem("0.8GFLOPs", facts=SIZED, space=SIZES))
    assert "none" not in tight.space.candidates(SIZED)
    for method in tight.space.candidates(SIZED):
        for side in (112, 160, 224):
            reached = any(line.lowest("macs") <= 8e8 for line in _corners(tight, method, side))
            assert (side in tight.space.sides_of(method)) == reached, (method, side)


def test_nothing_over_the_budget_is_evaluated_at_any_size(tmp_path: Path) -> None:
    problem = within_sizes(fake_problem("1.2GFLOPs", facts=SIZED, space=SIZES))
    result = run_search(SearchSettings(n_trials=8), problem, tmp_path / "run")
    sides = {r.config.image_size for r in result.records if r.evaluated and r.config is not None}
    assert {112, 160} <= sides
    assert all(r.costs is not None and r.costs.macs <= 1.2e9 for r in result.records if r.evaluated)


def test_a_size_that_cannot_be_is_told_before_the_search() -> None:
    space = dataclasses.replace(SIZES, image_sizes=(100, 224))
    with pytest.raises(ConfigError, match=r"image_size 100 .* multiples of 16 pixels, such as 96"):
        within_sizes(fake_problem(facts=SIZED, space=space))
    with pytest.raises(ConfigError, match="image_size 112 cannot be had of backbone 'fake'"):
        within_sizes(fake_problem(space=SIZES))


def test_a_space_without_sizes_stays_the_same() -> None:
    problem = fake_problem(facts=SIZED)
    assert within_sizes(problem) is problem
    asked: list[str] = []
    problem.space.walk(lambda p: asked.append(p.name) or p.cast(p.low), SIZED)
    assert "image_size" not in asked


def test_budgets_are_checked_where_a_subnet_may_be_a_single_block_deep() -> None:
    structure = dataclasses.replace(STRUCTURE, depth_choices=(1, 12))
    smallest = structure.shrunk(structure.default)[-1]
    assert smallest.depth == 1
    least = cost(structure.facts(smallest), CompressionConfig()).macs
    space = dataclasses.replace(load_space("default"), structure=structure)
    for limit in ("60%", f"{least + 1000000} MACs"):
        check_budgets(fake_problem(limit, facts=structure.facts(None), space=space))
