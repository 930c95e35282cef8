"""Which study is whose: made once, joined on request, worked on by one at a time."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok.errors import ConfigError, StudyTaken
from autotok.searching.engines.base import Job
from autotok.searching.proposing.identity import Owner
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running.opening import open_search, resume_search, run_search
from autotok.searching.running.search_result import SearchResult
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings
from autotok.searching.space.space_file import load_space

pytestmark = pytest.mark.usefixtures("few_candidates")


def settings(folder: Path, study: str | None = None) -> SearchSettings:
    url = f"sqlite:///{folder / 'studies.db'}"
    return SearchSettings(n_trials=3, storage=url, study=study)


def test_two_runs_in_one_storage_have_studies_of_their_own(tmp_path: Path) -> None:
    one = run_search(settings(tmp_path), fake_problem(), tmp_path / "a")
    other = dataclasses.replace(settings(tmp_path), seed=7)
    two = run_search(other, fake_problem("40%"), tmp_path / "b")
    assert one.evaluated == two.evaluated == 3
    alone = run_search(SearchSettings(n_trials=3, seed=7), fake_problem("40%"), tmp_path / "c")
    assert [r.params for r in two.records] == [r.params for r in alone.records]
    assert resume_search(fake_problem(), tmp_path / "a", n_trials=4).evaluated == 4
    assert resume_search(fake_problem("40%"), tmp_path / "b", n_trials=4).evaluated == 4


def test_a_study_that_exists_is_joined_only_on_request(tmp_path: Path) -> None:
    named = settings(tmp_path, "mine")
    run_search(named, fake_problem(), tmp_path / "a")
    with pytest.raises(StudyTaken, match=r"'mine' exists already in this storage; .* --join"):
        run_search(named, fake_problem(), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    joining = dataclasses.replace(named, join=True, n_trials=5)
    with pytest.raises(StudyTaken, match=r"budget 2,299,441,152 .* has budget 1,839,552,921 "):
        run_search(joining, fake_problem("40%"), tmp_path / "b")
    few = fake_problem(space=dataclasses.replace(load_space("default"), methods=("tome",)))
    with pytest.raises(StudyTaken, match="another backbone, space, budget, number of images or"):
        run_search(joining, few, tmp_path / "b")
    other = dataclasses.replace(joining, objectives=("quality", "params_m"))
    with pytest.raises(StudyTaken, match="has the objectives"):
        run_search(other, fake_problem(), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    joined = run_search(joining, fake_problem(), tmp_path / "b")
    whole = run_search(SearchSettings(n_trials=5), fake_problem(), tmp_path / "whole")
    assert [r.params for r in joined.records] == [r.params for r in whole.records]


def judged_with(**held: str) -> Problem:
    return dataclasses.replace(fake_problem(), held=lambda: held)


def test_a_study_of_other_images_weights_or_order_is_not_joined(tmp_path: Path) -> None:
    joining = dataclasses.replace(settings(tmp_path, "mine"), join=True)
    url = str(joining.storage)
    open_search(joining, judged_with(data="digits", seed="0"), url).proposals.close()
    open_search(joining, judged_with(data="digits", seed="0", more="new"), url).proposals.close()
    words = "'mine' was started with data digits, seed 0, and this search has data demo, seed 1; "
    with pytest.raises(StudyTaken, match=words):
        open_search(joining, judged_with(data="demo", seed="1"), url)


def test_a_study_of_an_earlier_version_is_held_to_what_it_kept(tmp_path: Path) -> None:
    joining = dataclasses.replace(settings(tmp_path, "mine"), join=True)
    run_search(joining, fake_problem(), tmp_path / "a")
    study = optuna.load_study(study_name="mine", storage=str(joining.storage))
    study.set_user_attr("held", None)
    for data in ("digits", "demo"):
        open_search(joining, judged_with(data=data), str(joining.storage)).proposals.close()


def test_what_another_run_fine_tuned_is_not_recommended_by_one_that_lacks_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = dataclasses.replace(
        settings(tmp_path, "mine"), n_trials=8, control_shapes=0, images_final=200
    )
    first, second = (FakeEvaluator(vit_facts()) for _ in range(2))
    plain = fake_problem(evaluate=first, finetune=first.finetune)
    own = run_search(named, plain, tmp_path / "a").best
    assert own is not None
    assert own.tuned is not None
    lacking = dataclasses.replace(
        fake_problem(evaluate=second, finetune=second.finetune),
        has_weights=lambda config: config.config_id in second.tuned,
    )
    joining = dataclasses.replace(named, join=True, n_trials=9, images_final=400, retrain_trials=0)
    joined = run_search(joining, lacking, tmp_path / "b")
    assert joined.best is not None
    assert all(r.tuned is None and r.state == "complete" for r in joined.front)
    assert "of the study left fine-tuned weights in another run's folder" in caplog.text
    again = resume_search(plain, tmp_path / "a").best
    assert again is not None
    assert again.tuned is not None


def test_joining_without_a_name_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="join needs the storage and the name"):
        SearchSettings(join=True)


def test_a_live_trial_is_never_failed_by_another_opening(tmp_path: Path) -> None:
    named = dataclasses.replace(settings(tmp_path, "mine"), join=True)
    first = open_search(named, fake_problem(), tmp_path)
    job = first.ask()
    assert isinstance(job, Job)
    with pytest.raises(StudyTaken, match=f"in use by process {os.getpid()} on"):
        open_search(named, fake_problem(), tmp_path)
    first.advance(job.number, FakeTally(40.0, 64), 0.1)
    study = optuna.load_study(study_name="mine", storage=str(named.storage))
    assert optuna.trial.TrialState.FAIL not in [t.state for t in study.get_trials()]


@pytest.mark.slow
def test_a_study_whose_process_is_gone_may_be_joined(tmp_path: Path) -> None:
    code = (
        "import sys, os; sys.path[:0] = sys.argv[1:3]\n"
        "from test_identity import *\n"
        "search = open_search(settings(Path(sys.argv[3]), 'mine'), fake_problem(), '')\n"
        "search.ask(); os.kill(os.getpid(), 9)\n"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(here), str(here.parent), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -9
    joining = dataclasses.replace(settings(tmp_path, "mine"), join=True)
    assert run_search(joining, fake_problem(), tmp_path / "run").evaluated == 3


def test_of_another_machine_nothing_is_known() -> None:
    here = Owner.here()
    assert not here.gone
    assert not dataclasses.replace(here, host="elsewhere", pid=2**30).gone
    assert dataclasses.replace(here, pid=2**30).gone
    if here.place:
        assert dataclasses.replace(here, started="1").gone  # the number was given away again


@pytest.mark.parametrize("when", ["set_trial_state_values", "set_trial_user_attr"])
def test_an_interrupt_inside_tell_loses_nothing_and_finishes_what_was_told(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = getattr(optuna.storages.JournalStorage, when), [0]

    def interrupted(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(optuna.storages.JournalStorage, when, interrupted)
    asked = SearchSettings(n_trials=8, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run_search(asked, fake_problem(), tmp_path / "run")
    evaluator = FakeEvaluator(vit_facts())
    resumed = resume_search(fake_problem(evaluate=evaluator), tmp_path / "run")
    whole = run_search(asked, fake_problem(), tmp_path / "whole")
    assert [r.params for r in resumed.records] == [r.params for r in whole.records]
    assert [r.number for r in resumed.records] == [r.number for r in whole.records]
    told = resumed.records[3].config
    assert told is not None
    again = told.config_id in [config_id for config_id, start, _ in evaluator.calls if start == 0]
    assert again == (when == "set_trial_user_attr")  # its record was, or was not, written yet


def test_a_folder_of_a_start_that_was_killed_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunDirectory.create(folder).release()
    (folder / ".config.yaml.a0_b1c2d").mkdir()
    (folder / ".config.yaml.a0_b1c2d" / "config.yaml").write_text("version: 1\nsea")
    (folder / "ray" / "job0").mkdir(parents=True)
    result: SearchResult = run_search(SearchSettings(n_trials=2), fake_problem(), folder)
    assert result.evaluated == 2
    assert not (folder / "ray").exists()


def test_a_name_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    """Its config.yaml knows neither a study nor an id of the run."""
    folder = tmp_path / "run"
    run_search(SearchSettings(n_trials=2), fake_problem(), folder)
    run = RunDirectory.open(folder)
    config = run.read_config()
    del config["run_id"], config["search"]["study"], config["search"]["join"]
    run.write_config(config)
    assert resume_search(fake_problem(), folder, n_trials=3).evaluated == 3
