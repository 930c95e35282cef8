"""`autotok init` and `search --config`."""

from collections.abc import Callable
from pathlib import Path

import yaml

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
