"""Ask and tell over an Optuna study, the one truth of a search.

Every finished trial lives in the study's storage. Proposing happens on a second, in-memory study
(`shadow_study`), so a proposal depends on (seed, logical trial number, attempt) and on finished
results only: never on the process, the clock, or how often the study was resumed. Optuna's own
"pruned" state marks infeasible trials, here only.
"""

from __future__ import annotations

import bisect
import contextlib
import gc
import json
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotok.config import Primitive
from autotok.searching.records.notes import attributes, note_entries, trial_note
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.pareto import Front
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.parameters import Parameter, Params
from autotok.searching.space.problem import Problem
from autotok.searching.space.settings import SearchSettings

from .identity import StudyIdentity, claim, name_metrics, open_study, release, sign
from .journal import at_once, hold_journal
from .samplers import FAR, check_sampler, faults_of, grid_point, make_sampler
from .shadow_study import ShadowStudy, distribution, suggest
from .storage import damaged_journal, is_url, open_storage, storage_errors

CRASH = 3
"""Deaths from outside that one crash weighs as much as."""
_INTERRUPTED = "interrupted: the process ended during this trial"
_STATES = {
    "complete": TrialState.COMPLETE,
    "duplicate": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Proposals:
    """The study: proposes parameters, keeps every record, survives the process."""

    def __init__(
        self,
        settings: SearchSettings,
        problem: Problem,
        storage: str | Path,
        identity: StudyIdentity | None = None,
    ) -> None:
        """Open a study and work on it until `close`, or until this is collected.

        It is in the `storage` of the settings, else in the one given.

        Raises:
            StudyTaken: the study is another run's, of another question, or in use.
            StorageUnreachable: its database does not answer.
            RunDirectoryError: its journal is damaged.
        """
        self.objectives = make_objectives(settings.objectives, problem.metric)
        check_sampler(settings.sampler, objectives=len(self.objectives))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._facts = problem.space, problem.facts
        self._sampler, self._seed = settings.sampler, settings.seed
        self._identity = identity or StudyIdentity()
        self._running: dict[int, int] = {}
        self._taken: set[int] = set()
        self.front = Front(self.objectives)
        """Of all finished trials."""
        self._next = 0
        self._pending: dict[int, FrozenTrial] = {}
        self.deaths: Counter[int] = Counter()
        """By logical number: 1 for each process that died while it ran this trial itself, `CRASH`
        for one that ended by a fatal signal of its own."""
        self.in_process = False
        """Whether trials run in this process, whose death is then theirs."""
        self.records: list[TrialRecord] = []
        """Finished trials in logical order."""
        self._unhold: Callable[[], object] = lambda: None
        storage = settings.storage or storage
        if not is_url(storage):
            self._unhold = weakref.finalize(self, hold_journal(Path(storage)).close)
        with storage_errors(storage), damaged_journal(storage), _nothing_thrown_away():
            self._open(storage)

    # --- what was there already

    def _open(self, storage: str | Path) -> None:
        identity = self._identity
        self._study = open_study(open_storage(storage), identity, self.objectives)
        self._study_id = self._study._study_id
        self._shadow = ShadowStudy(self._study.directions)
        claim(self._study, identity, self)
        name_metrics(self._study, self.objectives)
        sign(self._study, identity)
        self._attrs: dict[str, Any] = dict(self._study.user_attrs)
        found: dict[int, tuple[TrialRecord, FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                trial = self._settled(trial)
            record = record_of(trial)
            if "died" in trial.user_attrs:
                self.deaths[int(trial.user_attrs["number"])] += int(trial.user_attrs["died"])
            if record is not None:
                found.setdefault(record.number, (record, trial))
        for _, (record, trial) in sorted(found.items()):
            self._remember(record, trial)
        self.front = Front(self.objectives, self.records)

    def _settled(self, trial: FrozenTrial, *, died: bool = True) -> FrozenTrial:
        """A trial that nobody runs any more, now finished: as told, if it came so far, else failed;
        `died`, if its process ended without a word."""
        storage, attrs = self._study._storage, trial.user_attrs
        told = attrs.get("record")
        if told is not None and attrs.get("reason") != _INTERRUPTED:
            record = TrialRecord.from_json(told, f"trial {trial.number} of the study")
            self._finish(trial._trial_id, record)
        else:
            storage.set_trial_user_attr(trial._trial_id, "reason", _INTERRUPTED)
            if died and attrs.get("in_process"):
                weight = CRASH if self._identity.crashed else 1
                storage.set_trial_user_attr(trial._trial_id, "died", weight)
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return storage.get_trial(trial._trial_id)

    def _remember(self, record: TrialRecord, trial: FrozenTrial) -> None:
        bisect.insort(self.records, record, key=lambda r: r.number)
        self._taken.add(record.number)
        self._shadow.add(record.number, trial)
        trial.user_attrs.clear()  # in memory once is enough; the storage keeps it

    @property
    def running(self) -> Collection[int]:
        """Logical numbers of the trials that were started and not told."""
        return self._running.keys()

    @property
    def next_number(self) -> int:
        """The lowest logical number that is neither finished nor running."""
        while self._next in self._taken:
            self._next += 1
        return self._next

    # --- ask

    def propose(
        self, number: int, *, attempt: int = 0, fixed: Mapping[str, Primitive] | None = None
    ) -> Params:
        """Parameters of logical trial `number`; further attempts differ, late ones are random.

        Nothing is stored yet: `start` does that once the proposal was repaired.
        """
        rng_seed = int(np.random.SeedSequence([self._seed, number, attempt]).generate_state(1)[0])
        fixed = fixed or {}
        if self._sampler == "grid":
            at = number + FAR * attempt
            return grid_point(self._space, self._facts, at, seed=self._seed, fixed=fixed)

        asked: list[optuna.Study] = []

        @cache
        def trial() -> optuna.Trial:
            name = "random" if attempt >= 2 else self._sampler
            study = self._shadow.study(make_sampler(name, rng_seed), self.front)
            asked.append(study)
            return study.ask()

        def choose(parameter: Parameter) -> Primitive:
            if parameter.name in fixed:
                return parameter.cast(fixed[parameter.name])
            return suggest(trial(), parameter)

        with faults_of(self._sampler):
            if self._sampler != "auto":  # others note something on every trial, answered or not
                trial()
            params = self._space.walk(choose, self._facts)
        for study in asked:
            self._pending[number] = study.get_trials(deepcopy=False)[-1]
        return params

    # --- start and tell

    def start(self, record: TrialRecord, *, constraints: Mapping[str, float] | None = None) -> None:
        """Store a trial as running, with its parameters, configuration and constraint values."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(record.params),
            distributions=self._distributions(record.params),
            user_attrs={**attributes(record), "in_process": self.in_process},
            system_attrs=self._sampler_attrs(record.number) | _shown(constraints),
            constraints=dict(constraints or {}),
        )
        trial_id = self._study._storage.create_new_trial(self._study_id, template_trial=trial)
        self._running[record.number] = trial_id
        self._taken.add(record.number)

    def tell(self, record: TrialRecord) -> None:
        """Finish a started trial: what was found is on disk when this returns."""
        storage, trial_id = self._study._storage, self._running[record.number]
        with at_once(storage):
            for key, value in note_entries(trial_note(record), trial_id):
                storage.set_study_system_attr(self._study_id, key, value)
            # from here on it counts as found: who is killed before the next line, finds it finished
            storage.set_trial_user_attr(trial_id, "record", json.dumps(record.to_dict()))
            self._finish(trial_id, record)
        del self._running[record.number]
        self._pending.pop(record.number, None)
        self._remember(record, storage.get_trial(trial_id))
        self.front.admit(record)

    def _finish(self, trial_id: int, record: TrialRecord) -> None:
        values = None
        if record.state in ("complete", "duplicate"):
            values = [float(record.values[o.name]) for o in self.objectives]
        self._study._storage.set_trial_state_values(trial_id, _STATES[record.state], values)

    def close(self) -> None:
        """Leave nothing running and give the study back; a resumed run does what was open again.

        A trial that was being told is finished as told.
        """
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._settled(trial, died=False)
        self._running.clear()
        release(self._study, self._identity)
        self._unhold()

    def _sampler_attrs(self, number: int) -> dict[str, Any]:
        """What the sampler noted on its own trial (NSGA-II's generation)."""
        noted = self._pending.get(number)
        return {} if noted is None else dict(noted.system_attrs)

    def _distributions(self, params: Mapping[str, Primitive]) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution] = {}
        if not params:  # the uncompressed model
            return found

        def choose(parameter: Parameter) -> Primitive:
            found[parameter.name] = distribution(parameter)
            return params[parameter.name]

        self._space.walk(choose, self._facts)
        for name in params.keys() - found.keys():
            found[name] = CategoricalDistribution([params[name]])
        return found

    # --- notes on the study as a whole

    def describe(self, text: str) -> None:
        """Show a Markdown text as the study's note in dashboards; written only if it changed."""
        attrs = self._study._storage.get_study_system_attrs(self._study_id)
        (key, version), *parts = note_entries(text, None)
        if any(attrs.get(k) != v for k, v in parts):
            stale = [(k, "") for k in attrs if k.startswith("dashboard:note_str:")]
            for k, v in dict([(key, int(attrs.get(key, 0)) + version), *stale, *parts]).items():
                self._study._storage.set_study_system_attr(self._study_id, k, v)

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study (the plan, results of the final evaluation)."""
        self._attrs[key] = value
        self._study.set_user_attr(key, value)

    def forget(self, *keys: str) -> None:
        """Take back what was kept under these keys, or under any that begins with one in '*'."""
        for key in keys:
            begins = key.removesuffix("*") if key.endswith("*") else None
            for known in [k for k in self._attrs if k == key or (begins and k.startswith(begins))]:
                if self._attrs[known] is not None:
                    self.note(known, None)

    def noted(self, key: str) -> Any:
        """What was kept under a key; None if nothing was."""
        return self._attrs.get(key)


def record_of(trial: FrozenTrial) -> TrialRecord | None:
    """What was found, if the trial was finished with it: not of one given up while it was told."""
    text = trial.user_attrs.get("record")
    if text is None or trial.user_attrs.get("reason") == _INTERRUPTED:
        return None
    record = TrialRecord.from_json(text, f"trial {trial.number} of the study")
    return record if _STATES.get(record.state) == trial.state else None


@contextlib.contextmanager
def _nothing_thrown_away() -> Iterator[None]:
    """Inside, all that is made is kept: collecting garbage would only look at it ever again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _shown(constraints: Mapping[str, float] | None) -> dict[str, Any]:
    """Constraint values once more as the list that dashboards read."""
    return {"constraints": list(constraints.values())} if constraints else {}
