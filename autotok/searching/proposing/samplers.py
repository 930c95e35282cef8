"""What proposes: Optuna samplers by name, by `module:factory`, or as Python objects.

A factory takes a seed and gives an Optuna `BaseSampler`. One is made anew for each proposal, with a
seed that follows from (seed, trial), so that a proposal never depends on the process or on how
often a run was resumed. A sampler object is copied instead, and every random state in it seeded.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler

from autotok.config import Primitive
from autotok.errors import AutotokError, ConfigError, failure
from autotok.facts import BackboneFacts
from autotok.names import from_module, text_of
from autotok.searching.space.parameters import Parameter, Params
from autotok.searching.space.search_space import SearchSpace
from autotok.searching.space.settings import SAMPLERS

_GRID_STEPS = 5
"""Per range."""
FAR = 9973
"""Points of the grid between one attempt at a trial and the next."""


def tpe_sampler(seed: int) -> BaseSampler:
    """Optuna's TPE, each parameter by itself."""
    return TPESampler(seed=seed, n_startup_trials=10, multivariate=False)


def nsgaii_sampler(seed: int) -> BaseSampler:
    """Optuna's NSGA-II in generations of 20."""
    return NSGAIISampler(population_size=20, seed=seed)


def gp_sampler(seed: int) -> BaseSampler:
    """Optuna's Gaussian process, which takes qualities for noisy."""
    return GPSampler(seed=seed, deterministic_objective=False)


def make_sampler(asked: object, seed: int) -> BaseSampler:
    """The sampler that a name, a `module:factory`, a factory or a sampler object stands for.

    Raises:
        ConfigError: it stands for none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if isinstance(asked, BaseSampler):
            twin = copy.deepcopy(asked)
            _seed_all(twin, seed, set())
            return twin
        factory: Any = _imported(asked) if isinstance(asked, str) else asked
        by_name = isinstance(factory, type) and issubclass(factory, BaseSampler)
        try:
            made = factory(seed=seed) if by_name else factory(seed)
        except Exception as error:  # a factory may be anybody's
            raise _unusable(asked, failure(error)) from error
    if not isinstance(made, BaseSampler):
        raise _unusable(asked, f"it gives a {type(made).__name__}, no optuna BaseSampler")
    return made


def check_sampler(asked: object, *, objectives: int = 2) -> None:
    """Raise `ConfigError` where a sampler cannot be made, or propose for so many objectives."""
    if isinstance(asked, str) and asked.startswith("<"):
        raise _unusable(
            asked, "it was a Python object; resume the run from Python with sampler=..."
        )
    sampler = make_sampler(asked, 0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with faults_of(asked), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * objectives)
        for _ in range(2):
            trial = study.ask()
            study.tell(trial, [trial.suggest_float("x", 0.0, 1.0)] * objectives)


@contextlib.contextmanager
def faults_of(asked: object) -> Iterator[None]:
    """Inside, what a sampler raises that is none of the table's is told as its fault."""
    try:
        yield
    except AutotokError:
        raise
    except Exception as error:  # a sampler may be anybody's
        if isinstance(asked, str) and asked in SAMPLERS:
            raise
        raise _unusable(asked, failure(error)) from error


def _imported(text: str) -> Callable[[int], object]:
    """The factory that a name of the table, or a `module:factory`, means."""
    try:
        found: Any = from_module(SAMPLERS.get(text, text))
    except Exception as error:  # importing runs somebody's module
        reason = f"{failure(error)}; is it installed, or in a folder of PYTHONPATH?"
        raise _unusable(text, reason) from error
    if not callable(found):
        raise _unusable(text, "it is no factory: give a function of a seed, or a sampler class")
    return found  # type: ignore[no-any-return]


def _unusable(asked: object, reason: str) -> ConfigError:
    return ConfigError(f"sampler '{text_of(asked)}' cannot be used: {reason}")


def _seed_all(thing: object, seed: int, seen: set[int]) -> None:
    """Seed every random state that a sampler holds, those of samplers inside it too."""
    seen.add(id(thing))
    for name, value in list(vars(thing).items()):
        state = getattr(value, "rng", value)  # Optuna's are made at the first use
        if isinstance(state, np.random.RandomState):
            state.seed(seed)
        elif isinstance(state, np.random.Generator):
            setattr(thing, name, np.random.default_rng(seed))
        elif name in ("seed", "_seed"):
            setattr(thing, name, seed)
        elif hasattr(value, "__dict__") and id(value) not in seen:
            if isinstance(value, BaseSampler) or type(value).__module__.startswith("optuna."):
                _seed_all(value, seed, seen)


# --- the grid, walked without a sampler


def grid_point(
    space: SearchSpace,
    facts: BackboneFacts,
    number: int,
    *,
    seed: int,
    fixed: Mapping[str, Primitive],
) -> Params:
    """Point `number` of the grid: a mixed-radix counter over the questions asked, offset by seed;
    what is fixed takes no digit of it."""
    offsets = np.random.default_rng([seed, 7]).integers(0, 2**31, size=64)
    digits, position = number, 0

    def choose(parameter: Parameter) -> Primitive:
        nonlocal digits, position
        if parameter.name in fixed:
            return parameter.cast(fixed[parameter.name])
        answers = _grid_answers(parameter)
        index = (digits + int(offsets[position % 64])) % len(answers)
        digits, position = digits // len(answers), position + 1
        return answers[index]

    return space.walk(choose, facts)


def _grid_answers(parameter: Parameter) -> list[Primitive]:
    if parameter.choices:
        return list(parameter.choices)
    if parameter.integer:
        return list(range(int(parameter.low), int(parameter.high) + 1))
    if parameter.log:
        return [float(v) for v in np.geomspace(parameter.low, parameter.high, _GRID_STEPS)]
    return [float(v) for v in np.linspace(parameter.low, parameter.high, _GRID_STEPS)]
