"""`autotok adapters` as users meet it: what is written, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

Run = Callable[..., tuple[int, str, str]]
QUICK = ("-b", "tiny", "--data", "digits", "--batch-size", "2", "--augment", "none", "-q")


def test_adapters_are_trained_as_asked_and_written(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    code, out, err = run(
        *("adapters", "-o", path, *QUICK, "--steps", "2", "--scale", "0.05", "--group-width", "1"),
        *("--lr", "1e-3", "--seed", "3", "--json"),
    )
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["adapters"], said["steps"], said["scale"]) == (str(path), 2, 0.05)
    assert said["last_loss"] > 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["seed"], metadata["lr"], metadata["augment"]) == ("3", "0.001", "none")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "0"), "steps must be above 0, got 0"),
        (("--augment", "flop"), "flop"),
        (("-b", "tinny"), "tinny"),
        (("--data", "no such folder"), "no such folder"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence_before_anything_loads(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("was loaded")

    monkeypatch.setattr("autotok.api.adapters.load_backbone", never)
    code, _, err = run("adapters", "-o", tmp_path / "a.safetensors", *QUICK, *arguments)
    assert code != 0
    assert words in err
    assert "was loaded" not in err
    assert err.count("\n") == 1
