"""Names that users give."""

import pytest

from autotok.errors import UnknownName
from autotok.names import ENGINES, known


def test_a_known_name_comes_back_and_another_is_told_with_the_nearest() -> None:
    assert known("engine", "ray", ENGINES) == "ray"
    with pytest.raises(UnknownName, match="engine 'rai' is unknown; did you mean 'ray'"):
        known("engine", "rai", iter(ENGINES))
