"""`OfficialWeights`: for methods whose authors published parameters."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .base import TokenReducer


class OfficialWeights(TokenReducer):
    """A reducer that knows its parameters by their authors' names."""

    official_modules: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(theirs, ours) of lists of modules: `theirs.NUMBER.rest` is `rest` behind ours."""
    official_by_block: ClassVar[bool] = False
    """The authors number parameters by block, not by reduction layer."""

    @classmethod
    def official_name(cls, name: str) -> tuple[int, str] | None:
        """(number of the reduction layer, our name) of an authors' name; -1: a row for each."""
        head, _, tail = name.partition(".")
        number, _, rest = tail.partition(".")
        ours = dict(cls.official_modules).get(head)
        if ours is None or not number.isdigit() or not rest:
            return None
        return int(number), ours + rest

    @classmethod
    def from_official(cls, name: str, values: Tensor) -> Tensor:
        """An authors' parameter in our shape; `name` is ours."""
        return values
