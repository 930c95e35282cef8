"""Controls are judged beside the best: both kinds, also where time is short."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from clocked import Workers, follow
from problems import fake_problem
from test_controls import SIZED

from autotok.config import CompressionConfig
from autotok.evaluation.tally import Tally
from autotok.searching.running.opening import run_search
from autotok.searching.running.time_limit import Around, TimeLimit
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


@pytest.mark.parametrize("alike", [True, False])
def test_a_control_that_is_not_told_from_the_best_sees_more_images(
    alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = fake_problem().costs
    whole = costs.cost(CompressionConfig()).macs

    def judged(config: CompressionConfig, start: int, stop: int) -> Tally:
        share = 50 + 40 * costs.cost(config).macs / whole
        share -= 40 * (config.method == "random" and not alike)
        hits = "".join("01"[image * 37 % 100 < share] for image in range(start, stop))
        return Tally("top1", len(hits), len(hits), hits.count("1"), hits=hits)

    workers = Workers(1, image_s=0.05)
    workers._accuracy = judged  # type: ignore[assignment]
    follow(workers, monkeypatch)
    problem = dataclasses.replace(
        fake_problem(total_images=20_000), load_tally=lambda data: Tally(**data)
    )
    settings = SearchSettings(n_trials=12, timeout_s=300.0, images_few=80)
    run = run_search(settings, problem, tmp_path / "run", engine=workers, around=Around(0.0))
    seen = [r.score.num_images for r in run.final.controls if r.score is not None]
    assert seen
    if alike:  # not only what the race leaves over, which is a tenth of its time at most
        assert min(seen) > 4 * run.plan.few
    else:
        assert set(seen) == {run.plan.few}
    assert workers.now <= 300.0


def test_a_control_that_fails_is_none_and_the_reason_is_told(tmp_path: Path) -> None:
    judge = fake_problem(facts=SIZED).evaluate

    def judged(config: CompressionConfig, start: int, stop: int) -> Any:
        if config.method == "random" or config.image_size is not None:
            raise MemoryError("no room")
        return judge(config, start, stop)

    problem = fake_problem(facts=SIZED, evaluate=judged)
    found = run_search(SearchSettings(n_trials=6), problem, tmp_path / "run").final
    assert found.controls == ()
    assert found.smaller_image is None
    assert "it failed (" in found.no_random_control
    assert "no room" in found.no_smaller_image
