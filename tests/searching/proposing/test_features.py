"""What the surrogate sees of a configuration."""

import numpy as np
from problems import fake_problem

from autotok.config import CompressionConfig
from autotok.searching.proposing.candidates import priced_as, priced_at
from autotok.searching.proposing.features import NOTHING, WHOLE, Features
from autotok.searching.proposing.repair import repair
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.warm_starts import warm_starts


def test_the_steepest_reduction_is_over_what_entered_it() -> None:
    facts = fake_problem().facts
    total = facts.num_patches
    plain = priced_as({}, "tome", 1.0, [], [], facts)
    assert (plain.steepest, plain.entering) == (1.0, 0.0)
    halved = priced_as({}, "tome", 0.5, [2, 5], [total // 2, total // 8], facts)
    assert halved.steepest == (total // 8) / (total // 2)
    assert halved.entering == 1.5


def test_between_the_uncompressed_model_and_none_at_all_lies_every_candidate() -> None:
    problem = fake_problem("50%")
    starts = warm_starts(problem.space, problem.facts)
    whole = float(problem.costs.cost(CompressionConfig()).macs)
    pool = [c for params in starts for c in priced_at(params, [0.0, 0.5, 1.0], problem, whole)]
    features = Features(problem, starts, whole)
    rows, ends = features.of(pool), features.of([NOTHING, WHOLE])
    low, high = ends.inputs.profile
    assert np.all(rows.inputs.profile >= low - 1e-9)
    assert np.all(rows.inputs.profile <= high + 1e-9)
    assert ends.inputs.removed.tolist() == [1.0, 0.0]
    assert ends.inputs.kind.tolist() == [-1, -1]


def test_a_cut_structure_is_not_taken_for_the_whole_one() -> None:
    from test_subnets import STRUCTURE, joint_problem

    problem = joint_problem()
    starts = warm_starts(problem.space, problem.facts)
    features = Features(problem, starts, float(problem.costs.cost(problem.whole).macs))
    path = STRUCTURE.shrunk(STRUCTURE.default)
    rows = []
    for subnet in (path[0], path[len(path) // 2], path[-1]):
        facts = STRUCTURE.facts(subnet)
        rows.append(priced_as({}, "none", 1.0, [], [], facts, model=problem.facts))
    seen = features.of(rows).inputs.profile
    apart = np.linalg.norm(seen - features.of([WHOLE]).inputs.profile, axis=1)
    assert apart[0] == 0.0
    assert 0.1 < apart[1] < apart[2]


def test_a_trial_is_seen_as_the_candidate_that_it_was() -> None:
    from test_subnets import STRUCTURE, joint_problem

    problem = joint_problem()
    space = problem.space
    whole = float(problem.costs.cost(problem.whole).macs)
    features = Features(problem, warm_starts(space, problem.facts), whole)
    small = STRUCTURE.shrunk(STRUCTURE.default)[-1]  # of fewer blocks
    params = space.encode("tome", (2, 6), (0.5, 0.25), problem.facts, subnet=small)
    found = repair(space.decode(params, problem.facts), 0.5, problem)
    assert found.config is not None
    assert found.config.subnet == small
    record = TrialRecord(
        *(0, "complete", found.config, found.layers, found.counts, found.costs), params=params
    )
    as_record = features.of_records([record])
    candidates = priced_at(params, np.linspace(0.0, 1.0, 41).tolist(), problem, whole)
    same = min(candidates, key=lambda c: abs(c.macs - float(as_record.macs[0])))
    as_candidate = features.of([same])
    np.testing.assert_allclose(as_candidate.macs, as_record.macs, rtol=0.05)
    np.testing.assert_allclose(  # priced on a grid of strengths, repaired exactly
        as_candidate.inputs.profile, as_record.inputs.profile, rtol=0.0, atol=0.06
    )
