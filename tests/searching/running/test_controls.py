"""Random pruning that a result is compared with comes in several shapes, the best's own first."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from problems import fake_problem, vit_facts

from autotok.config import CompressionConfig, Reduction
from autotok.counting.cost import Cost
from autotok.counting.macs import uncompressed
from autotok.facts import BackboneFacts
from autotok.searching.proposing.repair import Repaired
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.controls import control_shapes, smaller_image
from autotok.searching.running.opening import open_search
from autotok.searching.space.settings import SearchSettings


def test_the_own_layers_of_the_best_come_first_then_stages_every_layer_and_one(
    tmp_path: Path,
) -> None:
    search = open_search(SearchSettings(), fake_problem(), tmp_path / "study.log")
    reductions = (Reduction(2, num_keep=147), Reduction(7, num_keep=49))
    config = CompressionConfig("tome", reductions)
    best = TrialRecord(0, "complete", config, layers=(2, 7), counts=(147, 49))
    shapes = control_shapes(search, best)
    search.proposals.close()
    assert {shape.method for shape in shapes} == {"random"}
    assert [shape.layers for shape in shapes] == [(2, 7), (3, 6, 9), tuple(range(12)), (2,)]
    assert shapes[0].weights == (1 / 3, 1.0)


def test_a_best_that_takes_nothing_away_has_no_control(tmp_path: Path) -> None:
    search = open_search(SearchSettings(), fake_problem(), tmp_path / "study.log")
    best = TrialRecord(0, "complete", CompressionConfig())
    assert control_shapes(search, best) == []
    search.proposals.close()


SIZED = dataclasses.replace(vit_facts(), one_size="")


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_smaller_image_is_the_largest_whose_cost_is_within_that_of_the_best(
    tmp_path: Path, share: float
) -> None:
    search = open_search(SearchSettings(), fake_problem(facts=SIZED), tmp_path / "study.log")
    macs = int(share * uncompressed(SIZED).macs)
    found = smaller_image(search, best_of_cost(macs))
    search.proposals.close()
    within = [
        side
        for side in range(16, 224, 16)
        if uncompressed(SIZED.at_size(side)).macs <= min(macs, uncompressed(SIZED).macs // 2)
    ]
    assert isinstance(found, Repaired)
    assert found.config == CompressionConfig(image_size=within[-1])
    assert found.feasible
    assert found.violation <= 0.0


@pytest.mark.parametrize(
    ("facts", "changes", "macs", "reason"),
    [
        (vit_facts(), {}, 10**9, "backbone 'fake' keeps its image size, because its adapter"),
        (SIZED, {}, 1000, "even images of 16 pixels"),
        (SIZED, {"layers": (), "counts": ()}, 10**9, "the best itself is the uncompressed"),
    ],
)
def test_why_there_is_no_control_on_smaller_images_is_told(
    tmp_path: Path, facts: BackboneFacts, changes: dict[str, Any], macs: int, reason: str
) -> None:
    search = open_search(SearchSettings(), fake_problem(facts=facts), tmp_path / "study.log")
    found = smaller_image(search, dataclasses.replace(best_of_cost(macs), **changes))
    search.proposals.close()
    assert isinstance(found, str)
    assert found.startswith(reason)


def best_of_cost(macs: int) -> TrialRecord:
    config = CompressionConfig("tome", (Reduction(2, num_keep=147),))
    costs = Cost(macs, macs, 1)
    return TrialRecord(0, "complete", config, layers=(2,), counts=(147,), costs=costs)


def test_features_of_smaller_images_are_of_other_patches(tmp_path: Path) -> None:
    problem = dataclasses.replace(fake_problem(facts=SIZED), metric="feature")
    search = open_search(SearchSettings(), problem, tmp_path / "study.log")
    found = smaller_image(search, best_of_cost(uncompressed(SIZED).macs // 2))
    search.proposals.close()
    assert isinstance(found, str)
    assert "smaller images have other patches" in found
