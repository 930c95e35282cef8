"""Controls are judged beside the best: both kinds, also where time is short."""

from pathlib import Path

import pytest
from problems import fake_problem
from test_controls import SIZED

from autotok.searching.running.opening import run_search
from autotok.searching.running.time_limit import TimeLimit
from autotok.searching.space.settings import SearchSettings


def test_a_search_ends_with_the_control_on_smaller_images_beside_the_random_ones(
    tmp_path: Path,
) -> None:
    settings = SearchSettings(n_trials=6)
    result = run_search(settings, fake_problem(facts=SIZED), tmp_path / "run").final
    control = result.smaller_image
    assert control is not None
    assert control.origin == "smaller image"
    assert control.within_budget
    assert control.measured
    assert result.best is not None
    assert control.costs is not None
    assert result.best.costs is not None
    assert control.costs.macs <= result.best.costs.macs
    assert control.number not in [r.number for r in result.controls]
    assert len({r.number for r in result.controls}) == settings.control_shapes
    assert result.no_smaller_image == result.no_random_control == ""
    plain = run_search(settings, fake_problem(), tmp_path / "plain").final
    assert plain.smaller_image is None
    assert "keeps its image size" in plain.no_smaller_image


def test_where_time_is_over_one_control_of_each_kind_is_judged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimeLimit, "is_over", lambda *_: True)
    settings = SearchSettings(n_trials=6, control_shapes=3)
    found = run_search(settings, fake_problem(facts=SIZED), tmp_path / "run").final
    assert found.smaller_image is not None
    assert found.no_smaller_image == ""
    assert len({r.number for r in found.controls}) == 1


def test_where_random_pruning_cannot_be_as_cheap_as_the_best_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = "autotok.searching.running.controls"
    monkeypatch.setattr(f"{room}.match_cost", lambda *_: None)
    found = run_search(SearchSettings(n_trials=4), fake_problem(), tmp_path / "run").final
    assert found.controls == ()
    assert found.no_random_control == "it cannot be as cheap as the best, inside every budget"
    assert found.to_dict()["no_random_control"] == found.no_random_control
    none = SearchSettings(n_trials=4, control_shapes=0)
    found = run_search(none, fake_problem(), tmp_path / "none").final
    assert found.no_random_control == "controls were left out (control_shapes: 0)"
    monkeypatch.undo()
    monkeypatch.setattr(
        "autotok.searching.running.final_controls.FinalControls._control", lambda *_: None
    )
    found = run_search(SearchSettings(n_trials=4), fake_problem(), tmp_path / "out").final
    assert found.no_random_control == "counted or measured anew, it is outside the budget"
