"""`Parameter`: one question of a search space, and who answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autotok.config import Primitive
from autotok.errors import ConfigError
from autotok.methods.base import Option

Params = dict[str, Primitive]


@dataclass(frozen=True)
class Parameter:
    """One question of the space: a choice, or a number in a range."""

    name: str
    choices: tuple[Primitive, ...] = ()
    low: float = 0.0
    high: float = 1.0
    integer: bool = False
    log: bool = False

    def allows(self, answer: Primitive) -> bool:
        """Whether it is an answer to this question."""
        if self.choices:
            return answer in self.choices
        if isinstance(answer, bool):
            return False
        whole = isinstance(answer, int) or not self.integer
        return isinstance(answer, (int, float)) and whole and self.low <= answer <= self.high

    @property
    def span(self) -> str:
        """What it allows, in words."""
        return ", ".join(map(str, self.choices)) or f"{self.low:g} to {self.high:g}"

    @property
    def only(self) -> Primitive | None:
        """The answer if there is just one."""
        if self.choices:
            return self.choices[0] if len(self.choices) == 1 else None
        return self.cast(self.low) if self.low == self.high else None

    def cast(self, value: Primitive) -> Primitive:
        """The nearest allowed answer (for warm starts; proposals are inside already)."""
        if self.choices:
            return value if value in self.choices else self.choices[0]
        inside = min(max(float(value), self.low), self.high)
        return round(inside) if self.integer else inside


Chooser = Callable[[Parameter], Primitive]


@dataclass(frozen=True)
class Condition:
    """Where all of `when` holds, each parameter of `then` has only these answers."""

    when: Mapping[str, tuple[Primitive, ...]]
    then: Mapping[str, tuple[Primitive, ...]]


def number(
    name: str, bounds: tuple[float, float], *, integer: bool = False, log: bool = False
) -> Parameter:
    """A number between two bounds."""
    return Parameter(name, low=bounds[0], high=bounds[1], integer=integer, log=log)


def of_option(method: str, option: Option) -> Parameter:
    """What a method's option asks: its choices, or its range.

    Raises `ConfigError` where the option has neither.
    """
    name = f"{method}.{option.name}"
    if isinstance(option.default, bool) and not option.choices:
        return Parameter(name, (False, True))
    if option.choices:
        return Parameter(name, option.choices)
    if option.low is None or option.high is None:
        raise ConfigError(
            f"option '{option.name}' of method '{method}' is marked for search but has no range;"
            f" fix it in the space under options: {method}: {option.name}: {option.default}"
        )
    is_integer = isinstance(option.default, int)
    return Parameter(name, (), option.low, option.high, is_integer, option.log)
