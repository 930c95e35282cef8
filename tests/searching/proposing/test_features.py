"""What the surrogate sees of a configuration."""

import numpy as np
from problems import fake_problem

from autotok.config import CompressionConfig
from autotok.searching.proposing.candidates import priced_as, priced_at
from autotok.searching.proposing.features import NOTHING, WHOLE, Features
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
