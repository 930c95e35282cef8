"""Images of the final evaluation add to those of the trial."""

from pathlib import Path

import pytest
from clocked import Workers, follow
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.config import CompressionConfig
from autotok.searching.running.opening import resume_search, run_search
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


@pytest.mark.parametrize("few", [None, 63])
def test_images_that_turn_out_to_be_unreadable_are_not_waited_for(
    tmp_path: Path, few: int | None
) -> None:
    """Of 64 that are listed 63 can be read, and all are to be seen; by trials too, in two parts of
    which the second finds nothing more."""
    facts, asked = vit_facts(), list[int]()
    judge = FakeEvaluator(facts)

    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        asked.append(start)
        assert len(asked) < 200
        return judge(config, start, min(stop, 63))

    problem = fake_problem("50%", facts=facts, evaluate=evaluate, total_images=64)
    settings = SearchSettings(n_trials=6, seed=0, images_few=few, images_more=few and 64)
    run = run_search(settings, problem, tmp_path / "run")
    assert run.best is not None
    assert run.best.score is not None
    assert run.best.score.num_images == 63
    asked.clear()
    again = resume_search(problem, tmp_path / "run")
    assert again.final.best == run.best
    assert all(start == 63 for start in asked)
