"""Names that users give."""

from pathlib import Path

import pytest

from autotok.errors import UnknownName
from autotok.names import ENGINES, from_module, known, text_of


def test_a_known_name_comes_back_and_another_is_told_with_the_nearest() -> None:
    assert known("engine", "ray", ENGINES) == "ray"
    with pytest.raises(UnknownName, match="engine 'rai' is unknown; did you mean 'ray'"):
        known("engine", "rai", iter(ENGINES))


def test_what_another_process_can_import_again_is_written_as_module_and_name() -> None:
    assert text_of("tpe") == "tpe"
    assert text_of(from_module) == "autotok.names:from_module"
    assert from_module(text_of(from_module)) is from_module
    assert from_module("pathlib:Path.home")() == Path.home()  # type: ignore[operator]
    assert text_of(lambda: None) == "<function>"
    with pytest.raises(AttributeError):
        from_module("pathlib:Nowhere")
