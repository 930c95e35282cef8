"""`autotok init` and `search --config`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import autotok
from autotok.searching.space.settings import DEFAULT_TIMEOUT_S, DEFAULT_TRIALS

Cli = Callable[..., tuple[int, str, str]]


def test_a_file_of_init_is_read_by_search_and_flags_override_it(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "asked.yaml"
    assert run("init", file)[0] == 0
    given = yaml.safe_load(file.read_text("utf-8"))
    assert given["trials"] == DEFAULT_TRIALS
    assert given["timeout"] == DEFAULT_TIMEOUT_S
    assert run("init", file)[0] == 2
    file.write_text(yaml.safe_dump(given | {"space": "no-such-space", "engine": "local"}))
    code, _, err = run("search", "--config", file)
    assert code == 2
    assert "no-such-space" in err
    code, _, err = run("search", "--config", file, "--engine", "rai")
    assert code == 2
    assert "engine 'rai' is unknown; did you mean 'ray'?" in err
    file.write_text("trails: 3")
    code, _, err = run("search", "--config", file)
    assert code == 2
    assert "'trails' is unknown; did you mean 'trials'?" in err
    assert err.rstrip().endswith("names, see `autotok search --help`")
    file.write_text("target: [jetson-nx, local]")
    code, _, err = run("search", "--config", file)
    assert code == 2
    assert "target: give one value, not ['jetson-nx', 'local']" in err


def test_the_folder_of_its_file_is_made_or_refused_in_one_sentence(
    run: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "folder" / "asked.yaml"
    assert run("init", file)[0] == 0
    assert "trials: " in file.read_text("utf-8")
    code, _, err = run("init", file / "below.yaml")
    assert code == 2
    assert f"'{file}' is a file" in err


@pytest.mark.parametrize(
    ("given", "flags", "searched"),
    [
        ({}, (), ["autoformer_demo"]),
        ({"backbone": "tiny"}, (), ["tiny"]),
        ({"backbone": ["tiny", "lvvit_s"]}, (), ["tiny", "lvvit_s"]),
        ({"backbone": "tiny"}, ("--backbone", "lvvit_s", "-b", "lvvit_m"), ["lvvit_s", "lvvit_m"]),
    ],
)
def test_a_file_and_flags_name_one_backbone_or_several(
    run: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    flags: tuple[str, ...],
    searched: list[str],
) -> None:
    asked: list[tuple[list[str], Any]] = []

    def search(backbones: list[str], **others: Any) -> None:
        asked.append((backbones, others["budget"]))
        raise autotok.ConfigError("that is enough")

    monkeypatch.setattr(autotok, "search", search, raising=False)
    file = tmp_path / "asked.yaml"
    file.write_text(yaml.safe_dump(given | {"budget": "50%"}))
    assert run("search", "--config", file, *flags)[0] == 2
    assert asked == [(searched, ("50%",))]


def test_a_list_with_commas_may_be_a_list_of_the_file(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def search(backbones: list[str], **others: Any) -> None:
        asked.append(others)
        raise autotok.ConfigError("that is enough")

    monkeypatch.setattr(autotok, "search", search, raising=False)
    file = tmp_path / "asked.yaml"
    lists = {"methods": ["tome", "evit"], "formats": ["float32", "int8"], "image_sizes": [24, 32]}
    for given in (lists, {name: ",".join(map(str, found)) for name, found in lists.items()}):
        file.write_text(yaml.safe_dump(given))
        assert run("search", "--config", file)[0] == 2
    assert [{name: one[name] for name in lists} for one in asked] == [lists, lists]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trials: true", "trials: must be a number or text, got true or false"),
        ("timeout: off", "timeout: must be a number or text"),
        ("budget: [50%, true]", "budget: must be a number or text"),
        ("measure_on: no", "put words such as yes and no in quotes"),
        ("trials: 2.5", "Invalid value for '--trials'"),
    ],
)
def test_values_of_a_file_are_what_they_would_be_as_flags(
    run: Cli, tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "asked.yaml"
    file.write_text(text)
    code, _, err = run("search", "--config", file)
    assert code == 2
    assert told in err
