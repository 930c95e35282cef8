"""The evolutionary search, on fitness functions whose optimum is known."""

import numpy as np
import pytest
from tiny_supernet import SPEC

from autotok.backbones.demo import DEMO_SPEC
from autotok.config import SubnetSpec
from autotok.errors import ConfigError
from autotok.supernet.evolution import (
    Evolution,
    EvolutionSettings,
    SubnetCandidate,
    crossover,
    mutate,
)


def size(subnet: SubnetSpec) -> float:
    return subnet.embed_dim + 10 * sum(subnet.heads) + 3 * sum(subnet.mlp_ratios)


def search(settings: EvolutionSettings, **changes: object) -> Evolution:
    values = {"legal": lambda s: size(s) <= 90, "fitness": size, **changes}
    return Evolution(SPEC, settings, **values)  # type: ignore[arg-type]


def test_it_finds_the_best_subnet_within_the_constraint() -> None:
    best_by_hand = max(
        size(SubnetSpec(e, h, r))
        for e in SPEC.embed_choices
        for d in SPEC.depth_choices
        for h in [(a, b, c)[:d] for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3)]
        for r in [(a, b, c)[:d] for a in (1.5, 2, 3) for b in (1.5, 2, 3) for c in (1.5, 2, 3)]
        if size(SubnetSpec(e, h, r)) <= 90
    )
    evolution = search(EvolutionSettings(30, 12, 8, 14, 14))
    tried = evolution.run()
    assert evolution.best()[0].fitness == best_by_hand
    assert all(size(c.subnet) <= 90 for c in tried)


def test_no_subnet_is_tried_twice_and_all_kinds_occur() -> None:
    tried = search(EvolutionSettings(20, 6, 5, 8, 8, seed=3)).run()
    assert len({c.subnet for c in tried}) == len(tried) == 120
    assert {c.origin for c in tried} == {"random", "mutation", "crossover"}
    assert {c.origin for c in tried if c.generation == 0} == {"random"}
    for candidate in tried:
        SPEC.check(candidate.subnet)
        assert candidate.subnet.depth in SPEC.depth_choices
        assert set(candidate.subnet.heads) <= set(SPEC.heads_choices)
        assert set(candidate.subnet.mlp_ratios) <= set(SPEC.mlp_ratio_choices)


def test_it_beats_drawing_at_random_with_as_many_evaluations() -> None:
    def fitness(subnet: SubnetSpec) -> float:
        return sum(subnet.heads) * sum(subnet.mlp_ratios)

    found = []
    for settings in (EvolutionSettings(10, 8, 4, 5, 5), EvolutionSettings(80, 1, 4, 0, 0)):
        evolution = Evolution(DEMO_SPEC, settings, legal=lambda s: True, fitness=fitness)
        assert len(evolution.run()) == 80
        found.append(evolution.best()[0].fitness)
    assert found[0] > found[1]


@pytest.mark.parametrize("after", [1, 7, 25, 39])
def test_interrupted_anywhere_it_takes_the_same_course_and_computes_nothing_twice(
    after: int,
) -> None:
    settings = EvolutionSettings(10, 4, 4, 4, 4, seed=1)
    whole = search(settings).run()
    seen: list[SubnetCandidate] = []
    first = search(settings, on_candidate=seen.append, stop=lambda: len(seen) >= after)
    assert first.run() == whole[:after]
    asked: list[SubnetSpec] = []

    def fitness(subnet: SubnetSpec) -> float:
        asked.append(subnet)
        return size(subnet)

    known = {c.subnet: c.fitness for c in seen}
    resumed = search(settings, fitness=fitness, known=known).run()
    assert resumed == whole
    assert asked == [c.subnet for c in whole[after:]]


def test_another_seed_takes_another_course() -> None:
    one, two = (search(EvolutionSettings(6, 2, 2, 2, 2, seed=s)).run() for s in (0, 1))
    assert [c.subnet for c in one] != [c.subnet for c in two]


def test_it_ends_when_nothing_new_is_within_the_constraint() -> None:
    only = SPEC.smallest()
    evolution = search(EvolutionSettings(10, 5, 2, 4, 4), legal=lambda s: s == only)
    assert [c.subnet for c in evolution.run()] == [only]
    none = search(EvolutionSettings(10, 5, 2, 4, 4), legal=lambda s: False)
    assert none.run() == []


def test_a_mutation_draws_at_the_asked_rates() -> None:
    rng, settings = np.random.default_rng(0), EvolutionSettings(per_layer=0.3, per_net=0.0)
    parent = SubnetSpec(16, (2, 2, 2), (2.0, 2.0, 2.0))
    children = [mutate(SPEC, parent, settings, rng) for _ in range(2000)]
    assert {c.embed_dim for c in children} == {16}
    changed = np.mean([h != 2 for c in children for h in c.heads])
    assert changed == pytest.approx(0.3 * 2 / 3, abs=0.02)  # a draw may give the old value
    still = EvolutionSettings(per_layer=0.0, per_net=1.0)
    depths = {mutate(SPEC, parent, still, rng).depth for _ in range(100)}
    assert depths == {1, 2, 3}
    short = mutate(SPEC, SubnetSpec(16, (3,), (3.0,)), still, rng)
    assert short.heads[0] == 3


def test_a_crossover_takes_every_gene_from_a_parent() -> None:
    one, other = SubnetSpec(12, (1, 1, 1), (1.5,) * 3), SubnetSpec(20, (3, 3, 3), (3.0,) * 3)
    children = [crossover(one, other, np.random.default_rng(i)) for i in range(40)]
    assert {c.embed_dim for c in children} == {12, 20}
    assert {h for c in children for h in c.heads} == {1, 3}
    assert any(len(set(c.heads)) == 2 for c in children)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"population": 0}, "population is 0"),
        ({"population": 10}, "more than the population of 10"),
        ({"per_layer": 1.5}, "a probability"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EvolutionSettings(**change)  # type: ignore[arg-type]
