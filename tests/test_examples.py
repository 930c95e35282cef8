"""Every example runs as it stands."""

import runpy
from pathlib import Path

import pytest

from autotok.methods.registry import METHODS

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_example_runs_and_is_short(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(path.read_text().splitlines()) <= 80
    monkeypatch.chdir(tmp_path)
    known = set(METHODS.names())
    runpy.run_path(str(path), run_name="__main__")
    for name in set(METHODS.names()) - known:
        METHODS.discard(name)
    assert capsys.readouterr().out.strip()
