"""A study as dashboards are to show it: read, never written, without what only the search reads.

A storage class of Optuna's with a few answers changed on their way out, so that runs of any age are
shown alike and nothing is added to a study for a viewer's sake.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from autotok.searching.records.notes import parameter_words

from .storage import filled_url, is_url

_ARTIFACT = "artifacts:"
"""What Optuna's artifacts are noted under, and optuna-dashboard looks for."""
_OWN = {"number", "record", "config", "cost", "predicted", "in_process", "reason", "died"}
"""Attributes of trials that the search reads again; what a person wants of them is in the note."""
_BY_LAYER = re.compile(r"\.\d+$")
"""Parameters of one layer each: two dozen axes of which the note gives the shape."""


class _Shown:
    """The changes, over any of Optuna's storages."""

    pictures: Callable[[], Mapping[str, str]]
    """Gives the names of the files behind artifacts, by their ids."""

    def get_all_studies(self) -> list[FrozenStudy]:
        """The studies without the search's own attributes, with the pictures."""
        studies = []
        for study in super().get_all_studies():  # type: ignore[misc]
            study = copy.copy(study)
            study.user_attrs = {}
            study.system_attrs = {**study.system_attrs, **self._artifacts()}
            studies.append(study)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """With the pictures."""
        return {**super().get_study_system_attrs(study_id), **self._artifacts()}  # type: ignore[misc]

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The trials as `shown_trial` gives them."""
        trials = super().get_all_trials(study_id, False, states)  # type: ignore[misc]
        return [shown_trial(trial) for trial in trials]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial as `shown_trial` gives it."""
        return shown_trial(super().get_trial(trial_id))  # type: ignore[misc]

    def _artifacts(self) -> dict[str, str]:
        return {
            _ARTIFACT + key: json.dumps(
                {"artifact_id": key, "filename": name, "mimetype": "image/png", "encoding": None}
            )
            for key, name in self.pictures().items()
        }  # fmt: skip


class _ShownJournal(_Shown, JournalStorage):
    """Reading a journal takes no lock."""


class _ShownDatabase(_Shown, RDBStorage):
    """Its tables are there already."""


def shown_storage(
    storage: str | Path, pictures: Callable[[], Mapping[str, str]]
) -> JournalStorage | RDBStorage:
    """The storage behind a journal file or a URL, to show; `pictures` gives file names by artifact
    id, part of every study in it from when they are there."""
    shown: _ShownJournal | _ShownDatabase
    if is_url(storage):
        shown = _ShownDatabase(
            filled_url(str(storage)), skip_compatibility_check=True, skip_table_creation=True
        )
    else:
        shown = _ShownJournal(JournalFileBackend(str(storage)))
    shown.pictures = pictures
    return shown


def shown_trial(trial: FrozenTrial) -> FrozenTrial:
    """A twin whose parameters have the names that people read, those of single layers left out,
    and whose attributes are figures that a table can be sorted by."""
    shown = copy.copy(trial)
    named = {name: parameter_words(name) for name in trial.params if not _BY_LAYER.search(name)}
    shown._params = {words: trial.params[name] for name, words in named.items()}
    shown._distributions = {words: trial.distributions[name] for name, words in named.items()}
    attributes = trial.user_attrs
    shown._user_attrs = {
        **{key: value for key, value in attributes.items() if key not in _OWN},
        **_figures(attributes.get("cost")),
        **_figures(attributes.get("predicted")),
    }
    return shown


def _figures(mapping: Any) -> dict[str, float]:
    """The numbers of a mapping, each an attribute of its own."""
    if not isinstance(mapping, Mapping):
        return {}
    return {str(k): v for k, v in mapping.items() if isinstance(v, (int, float))}
