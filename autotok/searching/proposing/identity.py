"""Which study is a run's own: created once, joined only on request, worked on by one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import uuid
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from autotok.errors import RunDirectoryError, StudyTaken
from autotok.plain_data import Kept
from autotok.searching.records.objective import Objective
from autotok.searching.space.problem import Fingerprint

STUDY_NAME = "autotok"
_CLAIM = "claim:"
_CODE, _HELD = "fingerprint", "held"
"""What a study is about, as a hash and in words."""
_HERE: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Who in this process works on a study, by the id of the run."""


def new_id() -> str:
    """An id that no other run has."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class StudyIdentity:
    """Name of a study, whose it is, and what it is about."""

    name: str = STUDY_NAME
    run: str = field(default_factory=new_id)
    """Id of the run that asks."""
    fingerprint: Fingerprint | None = None
    """Of the problem; None leaves it open."""
    access: str = "new"
    """'new': there must be none yet. 'own': the run's own, if it is there already. 'join': any."""
    crashed: bool = False
    """Whether the last process that worked on it here ended by a fatal signal of its own."""


def check_study(
    storage: BaseStorage, identity: StudyIdentity, objectives: Sequence[Objective]
) -> optuna.Study | None:
    """The study, if it is there and may be opened under this identity; nothing is written.

    Raises:
        StudyTaken: it is another run's, or of another question, or in use.
    """
    try:
        study = optuna.load_study(
            study_name=identity.name, storage=storage, sampler=RandomSampler(0)
        )
    except KeyError:
        return None
    attrs, name = study.user_attrs, identity.name
    owners = {key for key in attrs if key.startswith(_CLAIM)}
    if identity.access == "new":
        raise _taken(name)
    if identity.access == "own" and owners and _CLAIM + identity.run not in owners:
        raise StudyTaken(f"study '{name}' belongs to another run; choose another --study")
    _check_same(attrs, identity)
    labels, known = [o.label for o in objectives], study.metric_names
    if study.directions != _directions(objectives) or (known is not None and known != labels):
        raise StudyTaken(
            f"study '{name}' has the objectives {', '.join(known or ['?'])}, but"
            f" {', '.join(labels)} are asked for; start a new run under another --study"
        )
    _check_alone(attrs, identity)
    return study


def _check_same(attrs: Mapping[str, Any], identity: StudyIdentity) -> None:
    """Refuse a study whose trials are not this problem's; of one that an earlier version started,
    what that kept is compared."""
    asked = identity.fingerprint
    if asked is None:
        return
    theirs, ours = attrs.get(_HELD) or {}, asked.held() if attrs.get(_HELD) else {}
    apart = [key for key, said in theirs.items() if ours.get(key, said) != said]
    other = "another backbone, space, budget, number of images or precision"
    if apart:
        other = ", ".join(f"{key} {theirs[key]}" for key in apart)
        other += f", and this search has {', '.join(f'{key} {ours[key]}' for key in apart)}"
    elif attrs.get(_CODE, asked.code) == asked.code:
        return
    raise StudyTaken(
        f"study '{identity.name}' was started with {other}; ask for the same, or start a new run"
        " with another --output, under another --study"
    )


def sign(study: optuna.Study, identity: StudyIdentity) -> None:
    """Note what a study is about, where nobody did: a study that has trials was started by an
    earlier version, and what they were judged with is no longer known."""
    asked, attrs = identity.fingerprint, study.user_attrs
    if asked is None:
        return
    if _CODE not in attrs:
        study.set_user_attr(_CODE, asked.code)
    if _HELD not in attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(_HELD, asked.held())


def open_study(
    storage: BaseStorage, identity: StudyIdentity, objectives: Sequence[Objective]
) -> optuna.Study:
    """The study, made if it is not there.

    Raises:
        StudyTaken: see `check_study`.
    """
    study = check_study(storage, identity, objectives)
    if study is None:
        try:
            study = optuna.create_study(
                study_name=identity.name,
                storage=storage,
                directions=_directions(objectives),
                sampler=RandomSampler(0),
            )
        except DuplicatedStudyError as error:  # another was faster
            raise _taken(identity.name) from error
    return study


def claim(study: optuna.Study, identity: StudyIdentity, holder: object) -> None:
    """Enter `holder` as the one who works on the study, until `release` or the end of it.

    Each claim has a key of its own and is written before others are looked for: of two that come
    at once, at least one sees the other.

    Raises:
        StudyTaken: another one is at work.
    """
    study.set_user_attr(_CLAIM + identity.run, dataclasses.asdict(Owner.here()))
    try:
        _check_alone(study.user_attrs, identity)
    except StudyTaken:
        study.set_user_attr(_CLAIM + identity.run, None)
        raise
    _HERE[identity.run] = holder


def release(study: optuna.Study, identity: StudyIdentity) -> None:
    """Give the study back."""
    _HERE.pop(identity.run, None)
    study.set_user_attr(_CLAIM + identity.run, None)


def _directions(objectives: Sequence[Objective]) -> list[StudyDirection]:
    """Optuna's word for each."""
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [up if o.maximise else down for o in objectives]


def name_metrics(study: optuna.Study, objectives: Sequence[Objective]) -> None:
    """Write down names and units, for dashboards."""
    labels = [o.label for o in objectives]
    if study.metric_names != labels:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(labels)


def _check_alone(attrs: Mapping[str, Any], identity: StudyIdentity) -> None:
    """Refuse a study that another run may still be working on."""
    here = Owner.here()
    for key, data in attrs.items():
        run = key.removeprefix(_CLAIM)
        if not key.startswith(_CLAIM) or data is None or run == identity.run:
            continue
        owner = Owner.from_dict(data)
        if run not in _HERE if owner == here else owner.gone:
            continue
        raise StudyTaken(
            f"study '{identity.name}' is in use by process {owner.pid} on '{owner.host}'; wait for"
            " it or end it first, or give another --study (where that machine is no more, go on"
            " with `autotok resume` of its run directory)"
        )


def _taken(name: str) -> RunDirectoryError:
    return StudyTaken(
        f"study '{name}' exists already in this storage; give another --study, or go on with its"
        " trials by --join"
    )


# --- who works on it


@dataclass(frozen=True)
class Owner(Kept):
    """A process on a machine, as a study's attribute says it."""

    host: str
    place: str
    """Boot and process namespace: only there does the process number mean anything."""
    pid: int
    started: str = ""
    """When, by the machine's own count; a number that was given away again differs in it."""

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _place(), pid, _started(pid))

    @property
    def gone(self) -> bool:
        """Whether it has surely ended; of another machine that cannot be known."""
        if (self.host, self.place) != (socket.gethostname(), _place()) or sys.platform == "win32":
            return False
        if self.place:
            return _started(self.pid) != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def _place() -> str:
    """Where process numbers count, on Linux; elsewhere nothing."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """Clock ticks after boot; empty for a process that is not there, or only its exit code is."""
    try:
        # the name, in parentheses, may hold anything
        state, *fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]
