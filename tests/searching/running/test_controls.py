"""Random pruning that a result is compared with comes in several shapes, the best's own first."""

from pathlib import Path

from problems import fake_problem

from autotok.config import CompressionConfig, Reduction
from autotok.searching.records.record import TrialRecord
from autotok.searching.running.controls import control_shapes
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
