"""`Registry`: what is registered by name, whether the package, a plug-in or a script adds it.

The package's own entries are imported when they are asked for, so that naming them costs nothing;
those of installed packages come through an entry-point group; a script's own call `add`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from autotok.errors import ConfigError, UnknownName

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Things of one kind by name, the package's own first, in the order they are listed in."""

    def __init__(self, kind: str, *, group: str, own: Mapping[str, str] | None = None) -> None:
        """`kind` in words, for messages; `group` of entry points; `own` names with the modules
        that register them when imported."""
        self._kind, self._group, self._own = kind, group, dict(own or {})
        self._items: dict[str, _T] = {}
        self._broken: dict[str, str] | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the package's own; nothing is imported for them."""
        return tuple(self._own)

    def add(self, name: str, item: _T) -> None:
        """Make an item known under a name.

        Raises:
            ConfigError: something else has it.
        """
        known = self._items.get(name)
        another = known is not None and _origin(known) != _origin(item)
        if another or self._own.get(name, _module(item)) != _module(item):
            raise ConfigError(f"{self._kind} '{name}' is registered twice; pick another name")
        self._items[name] = item

    def look_again(self) -> None:
        """Read the entry points anew at the next question: packages were installed or removed."""
        self._broken = None

    def discard(self, name: str) -> None:
        """Forget what was added under a name."""
        self._items.pop(name, None)

    def get(self, name: str) -> _T:
        """What is registered under `name`.

        Raises:
            UnknownName: nothing; the nearest name is told.
            ConfigError: its package cannot be imported; the message says why.
        """
        if name in self._own and name not in self._items:
            importlib.import_module(self._own[name])
        if name not in self._items:
            broken = self._plugged_in()
            if name in broken:
                raise ConfigError(
                    f"{self._kind} '{name}' cannot be used: {broken[name]}; mend or remove its"
                    " package"
                )
        if name not in self._items:
            raise UnknownName(self._kind, name, self.names())
        return self._items[name]

    def names(self) -> list[str]:
        """All names: the package's own, then the others sorted."""
        self._plugged_in()
        return [*self._own, *sorted(self._items.keys() - self._own.keys())]

    def __iter__(self) -> Iterator[_T]:
        """All items in the order of `names`, each of the package's own imported when its turn
        comes, plug-ins after them."""
        for name in self._own:
            yield self.get(name)
        for name in self.names()[len(self._own) :]:
            yield self._items[name]

    def _plugged_in(self) -> dict[str, str]:
        """Why plug-ins could not be loaded, by name: a broken one must not break the rest."""
        if self._broken is None:
            self._broken = {}
            for point in entry_points(group=self._group):
                try:
                    point.load()
                except (Exception, SystemExit) as error:  # foreign code may raise anything
                    reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
                    self._broken[point.name] = f"{point.value} cannot be loaded ({reason})"
                    told = self._broken[point.name]
                    _LOG.warning("%s plug-in '%s' is missing: %s", self._kind, point.name, told)
        return self._broken


def _module(item: object) -> str:
    return str(getattr(item, "__module__", ""))


def _origin(item: object) -> tuple[str, str]:
    """Where the item, or its class, was written: the same again is no second registration."""
    made = item if isinstance(item, type) else type(item)
    return _module(made), made.__qualname__
