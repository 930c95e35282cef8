"""`OfficialWeights`: for methods whose authors published parameters."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import Tensor

from .base import TokenReducer


class OfficialWeights(TokenReducer):
    """A reducer that knows its parameters by their authors' names."""

    official_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(pattern of theirs, ours): the first group is the number of the reduction layer, the first
    one where it is empty; without a group there is a row for each."""
    official_by_block: ClassVar[bool] = False
    """The authors number parameters by block, not by reduction layer."""

    @classmethod
    def official_name(cls, name: str) -> tuple[int, str] | None:
        """(number of the reduction layer, our name) of an authors' name; -1: a row for each."""
        for theirs, ours in cls.official_names:
            if found := re.fullmatch(theirs, name):
                return int(found[1] or 0) if found.re.groups else -1, found.expand(ours)
        return None

    @classmethod
    def from_official(cls, name: str, values: Tensor) -> Tensor:
        """An authors' parameter in our shape; `name` is ours."""
        return values
