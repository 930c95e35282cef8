"""The journal of a study: Optuna reads what we write, and we read what Optuna does."""

import os
import re
from pathlib import Path

import optuna
import pytest
from problems import fake_problem

from autotok.searching.proposing.journal import at_once, open_journal
from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings


def by_optuna(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def test_a_journal_says_the_same_to_us_as_to_optuna_but_for_the_notes_of_trials(
    tmp_path: Path,
) -> None:
    run_search(SearchSettings(n_trials=6), fake_problem(), tmp_path / "run")
    ours, theirs = (f(tmp_path / "run" / "study.log") for f in (open_journal, by_optuna))
    assert ours.get_all_trials(0) == theirs.get_all_trials(0)
    assert len(ours.get_all_trials(0)) >= 6
    attrs = theirs.get_study_system_attrs(0)
    notes = {key for key in attrs if re.match(r"dashboard:\d+:note_", key)}
    assert len(notes) >= 12
    assert ours.get_study_system_attrs(0) == {k: v for k, v in attrs.items() if k not in notes}
    assert ours.get_study_user_attrs(0) == theirs.get_study_user_attrs(0)


def test_what_is_written_at_once_waits_for_the_disk_once_and_keeps_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_journal(tmp_path / "study.log")
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    trial, waits, wait = storage.create_new_trial(study), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (waits.append(file), wait(file)))
    with at_once(storage):
        storage.set_trial_user_attr(trial, "a", 1)
        storage.set_trial_user_attr(trial, "a", 2)
        storage.set_trial_state_values(trial, optuna.trial.TrialState.COMPLETE, [0.5])
    assert len(waits) == 1
    for found in (storage.get_trial(trial), by_optuna(tmp_path / "study.log").get_trial(trial)):
        assert (found.user_attrs, found.values) == ({"a": 2}, [0.5])


def test_who_is_interrupted_inside_keeps_what_came_before(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "study.log")
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    trial = storage.create_new_trial(study)

    def interrupted() -> None:
        with at_once(storage):
            storage.set_trial_user_attr(trial, "a", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert by_optuna(tmp_path / "study.log").get_trial(trial).user_attrs == {"a": 1}


def test_of_another_storage_every_line_is_written_by_itself() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    with at_once(storage):
        storage.set_study_user_attr(study, "a", 1)
        assert storage.get_study_user_attrs(study) == {"a": 1}


def test_a_line_that_is_still_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    writer = open_journal(path)
    study = writer.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    begun = path.stat().st_size
    writer.set_study_user_attr(study, "a", 1)
    line = path.read_bytes()[begun:]
    os.truncate(path, begun + 9)
    reader = open_journal(path)
    assert reader.get_study_user_attrs(study) == {}
    with open(path, "ab") as file:
        file.write(line[9:])
    assert reader.get_study_user_attrs(study) == {"a": 1}


def test_two_that_write_in_turn_read_each_other(tmp_path: Path) -> None:
    one = open_journal(tmp_path / "study.log")
    study = one.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    other = open_journal(tmp_path / "study.log")
    for turn, storage in enumerate((one, other) * 3):
        with at_once(storage):
            storage.set_study_user_attr(study, str(turn), turn)
            storage.set_study_system_attr(study, f"dashboard:{turn}:note_ver", 1)
    for storage in (one, other, by_optuna(tmp_path / "study.log")):
        assert storage.get_study_user_attrs(study) == {str(turn): turn for turn in range(6)}


def test_a_damaged_line_before_others_is_not_passed_over(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "study.log")
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    with open(tmp_path / "study.log", "ab") as file:
        file.write(b'{"op_code":2,\n')
    storage.get_study_user_attrs(study)  # the last one: as good as not yet written
    with open(tmp_path / "study.log", "ab") as file:
        file.write(b'{"op_code":2,"worker_id":"","study_id":0,"user_attr":{"a":1}}\n')
    with pytest.raises(ValueError, match="Expecting"):
        storage.get_study_user_attrs(study)
