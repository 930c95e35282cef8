"""Images of the final evaluation add to those of the trial."""

from pathlib import Path

import pytest
from clocked import Workers, follow
from problems import fake_problem

from autotok.searching.running.opening import run_search
from autotok.searching.running.time_limit import Around
from autotok.searching.space.settings import SearchSettings


def test_a_final_evaluation_in_parts_sees_no_image_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(1, image_s=0.05)
    follow(workers, monkeypatch)
    settings = SearchSettings(n_trials=12, timeout_s=60.0)
    run = run_search(settings, fake_problem(), tmp_path / "run", engine=workers, around=Around(0.0))
    assert run.best is not None
    assert run.best.config is not None
    assert run.best.score is not None
    mine = [j for j in workers.asked if j.config == run.best.config]
    images = [i for job in mine for i in range(job.start, job.stop)]
    assert images == list(range(run.best.score.num_images))
