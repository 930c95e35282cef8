"""The final evaluation runs in parts, each fitted to the time left."""

from pathlib import Path

import pytest
from clocked import Workers, follow
from problems import fake_problem

from autotok.searching.engines.base import Outcome
from autotok.searching.running.events import Event, FinalEvaluation, event_text
from autotok.searching.running.opening import run_search
from autotok.searching.running.time_limit import Around
from autotok.searching.space.settings import SearchSettings


class BusyLater(Workers):
    """Workers whose machine becomes three times slower after a while."""

    def collect(self) -> Outcome:
        self._image_s = 0.15 if self.now > 70.0 else 0.05
        return super().collect()


def test_a_machine_that_slows_down_in_the_final_evaluation_does_not_overrun_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = BusyLater(1, image_s=0.05)
    follow(workers, monkeypatch)
    settings = SearchSettings(n_trials=24, timeout_s=100.0)
    problem = fake_problem(total_images=100_000)
    run = run_search(settings, problem, tmp_path / "run", engine=workers, around=Around(0.0))
    assert 75.0 < workers.now <= 110.0
    final = run.final
    assert final.reference is not None
    seen = {r.score.num_images for r in [*final.front, final.reference] if r.score}
    assert len(seen) == 1
    assert seen.pop() > run.plan.more
    least = min(r.score.num_images for r in final.controls if r.measured and r.score)
    assert least >= run.plan.few


def test_the_progress_of_a_race_counts_no_model_that_has_left_it(tmp_path: Path) -> None:
    """How many results are to come nobody knows; how many race does, and controls do not race."""
    heard: list[Event] = []
    run_search(SearchSettings(n_trials=12, seed=1), fake_problem(), tmp_path, heard.append)
    finals = [event for event in heard if isinstance(event, FinalEvaluation)]
    racers = [event for event in finals if event.record.origin != "control"]
    for event in racers:
        assert 1 <= event.racing <= len({other.record.number for other in racers})
        assert f"{event.racing} models in the race" in event_text(event)[0]
    assert [event.racing for event in racers] == sorted((e.racing for e in racers), reverse=True)
    controls = [event for event in finals if event.record.origin == "control"]
    assert controls
    assert all("random control: " in event_text(event)[0] for event in controls)
    assert not any(" of " in event_text(event)[0].split(":")[0] for event in finals)
    shown = [event.progress for event in finals]
    assert shown == sorted(shown)
    assert shown[-1] <= 1.0
