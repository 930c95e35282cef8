"""What several backbones add to the final evaluation: each is a control of the others."""

import dataclasses
from pathlib import Path

import pytest
from problems import fake_problem, vit_facts

from autotok.searching.records.record import TrialRecord
from autotok.searching.running.opening import run_search
from autotok.searching.running.other_backbones import by_best_backbone
from autotok.searching.running.search_result import SearchResult
from autotok.searching.running.several import joined_problem
from autotok.searching.space.settings import SearchSettings

SMALL = vit_facts(depth=6)
SETTINGS = SearchSettings(
    n_trials=12, sampler="tpe", images_few=10, images_more=20, images_final=40, control_shapes=1
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search of two backbones of which the second fits the budget as it is."""
    big, small = fake_problem("60%"), fake_problem("60%", facts=SMALL)
    problem = dataclasses.replace(joined_problem({"big": big, "small": small}), budgets=big.budgets)
    return run_search(SETTINGS, problem, tmp_path_factory.mktemp("two") / "run")


def test_a_backbone_that_fits_as_it_is_is_tried_first(found: SearchResult) -> None:
    first = found.records[0]
    assert (first.backbone, first.layers, first.origin) == ("small", (), "warm-start")
    assert first.params["method"] == "none"
    assert {r.backbone for r in found.records} == {"big", "small"}


def test_every_backbone_is_there_uncompressed_and_at_its_best(found: SearchResult) -> None:
    final = found.final
    assert final.best is not None
    assert final.reference is not None
    assert final.reference.backbone == final.best.backbone
    other = {"big": "small", "small": "big"}[final.best.backbone]
    whole, *rest = final.others
    assert (whole.backbone, whole.origin, whole.layers) == (other, "reference", ())
    assert final.uncompressed(other) == whole
    shown = [*rest, *final.front]
    assert any(r.backbone == other and r.origin != "reference" for r in shown)


def test_no_configuration_is_there_twice_and_all_are_inside_the_budget(found: SearchResult) -> None:
    evaluated = [r.config for r in found.records if r.evaluated]
    assert len(set(evaluated)) == len(evaluated) == 12
    limit = found.budgets[0].limit
    assert all(r.costs is not None and r.costs.macs <= limit for r in found.records if r.evaluated)


def test_a_run_of_the_same_seed_finds_the_same(found: SearchResult, tmp_path: Path) -> None:
    big, small = fake_problem("60%"), fake_problem("60%", facts=SMALL)
    problem = dataclasses.replace(joined_problem({"big": big, "small": small}), budgets=big.budgets)
    again = run_search(SETTINGS, problem, tmp_path / "run")
    assert [r.config for r in again.front] == [r.config for r in found.front]


def test_the_reference_of_the_best_comes_first() -> None:
    records = [TrialRecord(-1, "complete", None), TrialRecord(-1001, "complete", None)]
    assert by_best_backbone(records, None) == records
