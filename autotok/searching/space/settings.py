"""How long and how a search runs, and the plan of images per fidelity that follows from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotok.documents import Place
from autotok.errors import ConfigError, UnknownName
from autotok.finetune_spec import MOST_SEED
from autotok.names import text_of
from autotok.plain_data import typed
from autotok.searching.records.objective import DEFAULT_OBJECTIVES, asked_metrics

_LONGEST_NAME = 200
DEFAULT_TRIALS, DEFAULT_TIMEOUT_S = 32, 290.0
"""What a search gets that is not told."""
_OURS = "autotok.searching.proposing.samplers"
SAMPLERS = {
    "auto": f"{_OURS}:tpe_sampler",
    "tpe": f"{_OURS}:tpe_sampler",
    "nsgaii": f"{_OURS}:nsgaii_sampler",
    "gp": f"{_OURS}:gp_sampler",
    "random": "optuna.samplers:RandomSampler",
    "grid": f"{_OURS}:tpe_sampler",
}
"""Names of samplers, each short for a `module:factory`. The grid is walked without one, but for
trials of which a part is given, such as fine-tunes of an earlier one."""


@dataclass(frozen=True)
class SearchSettings:
    """Search effort. `None` image counts follow from the time limit, or have fixed defaults."""

    n_trials: int = 32
    """Different configurations to evaluate."""
    timeout_s: float | None = None
    """Wall-clock limit of the whole search, final evaluation included."""
    min_trials: int = 24
    """Evaluated before the final evaluation's share of the time is set aside in full."""
    seed: int = 0
    sampler: Any = "auto"
    """A name of `SAMPLERS`, a `module:factory`, or in Python such a factory, which makes an Optuna
    sampler of a seed, or an Optuna sampler."""
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    storage: str | None = None
    """Optuna storage URL; None is the journal file study.log in the run directory."""
    study: str | None = None
    """Name of the study there; None is 'autotok' in the run's journal file, and in a storage a new
    one that no other run has."""
    join: bool = False
    """Go on with the trials of a study that exists already; without it that is an error."""
    images_few: int | None = None
    images_more: int | None = None
    images_final: int | None = None
    """None: the whole validation split, as far as the time limit allows."""
    front_size: int = 6
    """Configurations of the front that get the final evaluation."""
    min_quality: float | None = None
    """What is worse takes no part in the final evaluation: percent, or the most KL divergence."""
    control_shapes: int = 3
    """Random prunings at the cost of the best; 0 leaves every control out."""
    retrain_trials: int | None = None
    """At most this many configurations are promoted to a fine-tune, where the space allows it; None
    is one for every 8 trials, 3 at most."""
    trial_timeout_s: float | None = None
    """An evaluation of as many images as a trial's first that takes longer counts as hung: it is
    stopped and fails. More images may take longer in proportion, a fine-tune any time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        asked_metrics(self.objectives)
        given = self.sampler
        if isinstance(given, str):
            if given not in SAMPLERS and ":" not in given and not given.startswith("<"):
                raise UnknownName("sampler", given, (*SAMPLERS, "module:factory"))
        elif not callable(given) and not hasattr(given, "sample_relative"):
            raise ConfigError(
                f"sampler is {given!r}; give a name, module:factory, a factory or an Optuna sampler"
            )
        for name in (
            "n_trials",
            "min_trials",
            "timeout_s",
            "trial_timeout_s",
            "images_few",
            "images_more",
            "images_final",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be positive and finite")
        if self.study is not None and not 0 < len(self.study.strip()) <= _LONGEST_NAME:
            raise ConfigError(f"study needs a name of 1 to {_LONGEST_NAME} characters")
        if self.join and (self.storage is None or self.study is None):
            raise ConfigError("join needs the storage and the name of the study to go on with")
        if not 0 <= self.seed < MOST_SEED:
            raise ConfigError(f"seed is {self.seed}; give a whole number from 0 to {MOST_SEED - 1}")
        if self.front_size < 2 or self.control_shapes < 0:
            raise ConfigError(
                f"front_size is {self.front_size} and control_shapes {self.control_shapes};"
                " they must be at least 2 and 0"
            )
        if self.min_quality is not None and not 0.0 <= self.min_quality <= 100.0:
            raise ConfigError(
                f"min_quality is {self.min_quality:g}; give percent, 0 to 100, or the most KL"
                " divergence"
            )
        if self.retrain_trials is not None and self.retrain_trials < 0:
            raise ConfigError(f"retrain_trials is {self.retrain_trials}; it must be 0 or more")

    @property
    def controls(self) -> int:
        """Models that the best is held against at its cost: random prunings, and one on smaller
        images."""
        return self.control_shapes + 1 if self.control_shapes else 0

    @property
    def finetunes(self) -> int:
        """Promotions to a fine-tune, at most."""
        if self.retrain_trials is not None:
            return self.retrain_trials
        return min(3, self.n_trials // 8)

    def changed(self, given: Mapping[str, Any]) -> SearchSettings:
        """With what is given, and not None, in its place; a time limit of 0 is none."""
        changes = {name: value for name, value in given.items() if value is not None}
        if changes.get("timeout_s") == 0:
            changes["timeout_s"] = None
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = dataclasses.replace(self, sampler=text_of(self.sampler))
        return {**dataclasses.asdict(plain), "objectives": list(self.objectives)}

    @classmethod
    def from_dict(cls, data: object, where: Place | str = "search settings") -> SearchSettings:
        """The inverse of `to_dict`; unknown keys are refused with the nearest known one."""
        return typed(cls, data, where)


@dataclass(frozen=True)
class FidelityPlan:
    """Images per fidelity and effort per fine-tune, fixed when the search starts and kept."""

    few: int
    more: int
    final: int
    finetunes: int = 0
    """Configurations that may be promoted to a fine-tune."""
    finetune_s: float | None = None
    """Seconds one fine-tune may take; None without a time limit."""
    finetune_macs: float | None = None
    """What those seconds pay for; a fine-tune's automatic length follows from it."""
    finetune_overhead: float = 0.0
    """Time that an image of a step takes whatever its tokens, as multiply-accumulates."""

    def __post_init__(self) -> None:
        assert 0 < self.few <= self.more <= self.final

    @property
    def pace_s(self) -> float:
        """Seconds for seeing how fast fine-tunes run: a fifth of what one may take."""
        return 0.2 * (self.finetune_s or 0.0) if self.finetunes else 0.0


# 95 % of a share lies within 12 points on so few, within 6 on so many
_FEW, _MORE = 64, 256
_SHARES = {"few": 0.28, "more": 0.12, "final": 0.5}
# 0.9 in all as well, with `_FINETUNE_SHARE`
_SHARES_RETRAIN = {"few": 0.25, "more": 0.1, "final": 0.28}
"""Of the time limit; the rest is slack for repair, writing and the operating system."""
_FINETUNE_SHARE = 0.27
_SHORTEST_FINETUNE_S = 30.0
"""A time limit that affords less per fine-tune affords fewer of them, or fewer trials."""


def fidelity_plan(
    settings: SearchSettings,
    total_images: int,
    seconds_per_image: float,
    *,
    promotes: bool = False,
    retrains: bool = False,
    macs_per_s: float = 0.0,
    capacity: int = 1,
) -> FidelityPlan:
    """Images per fidelity: as set, else what the time limit affords at the speed measured.

    About half of the trials are expected to be promoted. Without a time limit: 64, 256, all.
    `promotes` sets time aside for fine-tunes, which are taken to do `macs_per_s`
    multiply-accumulates in a second; each of `capacity` workers is as fast at the same time.
    `retrains` shares that time among the trials, each of which is fine-tuned.
    """
    few, more, final = _FEW, _MORE, total_images
    promotes = promotes and settings.finetunes > 0
    shares = _SHARES_RETRAIN if promotes or retrains else _SHARES
    finetunes = settings.finetunes if promotes else 0
    finetune_s, finetune_macs = None, None
    if settings.timeout_s is not None:
        speed = max(seconds_per_image, 1e-6)
        affordable = capacity * settings.timeout_s / speed
        few = max(16, int(shares["few"] * affordable / settings.n_trials))
        more = few + int(shares["more"] * affordable / max(1, settings.n_trials // 2))
        final = int(shares["final"] * affordable / members(settings, settings.front_size))
        if promotes:
            seconds = _FINETUNE_SHARE * settings.timeout_s
            finetunes = max(1, min(finetunes, int(seconds / _SHORTEST_FINETUNE_S)))
            finetune_s = seconds / -(-finetunes // capacity)
        elif retrains:
            each = _FINETUNE_SHARE * capacity * settings.timeout_s / settings.n_trials
            finetune_s = max(_SHORTEST_FINETUNE_S, each)
        finetune_macs = None if finetune_s is None else finetune_s * macs_per_s
    final = min(total_images, settings.images_final or max(32, final))
    more = min(final, settings.images_more or more)
    few = min(more, settings.images_few or few)
    return FidelityPlan(few, more, final, finetunes, finetune_s, finetune_macs)


def members(settings: SearchSettings, finalists: int) -> int:
    """Configurations that the final evaluation runs, the uncompressed reference counted twice."""
    return min(finalists, settings.front_size) + settings.controls + 2
