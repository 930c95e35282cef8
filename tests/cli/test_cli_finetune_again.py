"""What an interrupted `autotok finetune` says to go on with: the very same fine-tune."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autotok

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "asked",
    [
        ("-m", "tome", "--keep", "0.6666667@1,0.3333333333@2"),
        ("-m", "tocom", "--keep", "0.75@1", "--option", "rescaled=false"),
        ("-m", "evit", "--keep", "0.5@1", "--exits", "linear@2"),
        ("-m", "tocom", "--keep", "0.75@1", "--option", "adapters=my adapters.safetensors"),
    ],
)
def test_it_names_the_very_same_configuration(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...]
) -> None:
    seen: list[Any] = []

    def stopped(config: object, **_: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(autotok, "finetune", stopped, raising=False)
    monkeypatch.setattr(autotok, "read_question", lambda folder: {}, raising=False)
    code, _, err = run("finetune", *asked, "-o", tmp_path / "my folder", "-q")
    assert code == 130
    told = shlex.split(err.split("`")[1])
    assert told[-3:] == ["-o", str(tmp_path / "my folder"), "--resume"]
    assert run(*told[1:], "-q")[0] == 130
    assert seen[0] == seen[1]
