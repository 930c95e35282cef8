"""Where a study lives: URLs, passwords, damaged journals; each trouble is one sentence."""

import contextlib
import random
from pathlib import Path

import pytest
from problems import fake_problem

from autotok.errors import ConfigError, RunDirectoryError, StorageUnreachable
from autotok.searching.proposing.storage import check_storage, filled_url, masked
from autotok.searching.running.opening import resume_search, run_search
from autotok.searching.space.settings import SearchSettings


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo://host/db", "names the database 'foo', which is unknown; use sqlite:///FILE"),
        ("mysql+nothing://host/db", "is unknown"),
        ("oracle://me:hidden@host/db", "needs the Python package"),
        ("://me:hidden@host", "is no URL of a database"),
        ("postgresql://me:hidden@host:port/db", "is no URL of a database"),
        ("postgres//me:hidden@host/db", r"'postgres//me:\*\*\*@host/db' is no URL of a database"),
        ("postgresql:me:hidden@host/db", "is no URL of a database"),
        ("sqlite:/a.db", "is no URL of a database; use sqlite:///FILE"),
        ("mysql+pymysql//host/db", "is no URL of a database"),
    ],
)
def test_a_storage_that_cannot_be_is_said_before_anything_is_written(
    url: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        run_search(SearchSettings(storage=url), fake_problem(), tmp_path / "run")
    assert "hidden" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["runs//a.log", "sqlite/a.log", "C:/a.log", "a:b.log", "sqlite"])
def test_a_path_is_a_path(path: str) -> None:
    check_storage(path)


def test_a_server_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    settings = SearchSettings(storage="postgresql://me:hidden@127.0.0.1:1/db")
    with pytest.raises(StorageUnreachable, match=r"me:\*\*\*@127.0.0.1:1/db' does not answer") as e:
        run_search(settings, fake_problem(), tmp_path / "run")
    assert "hidden" not in str(e.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgresql://me@h/db", "postgresql://me@h/db"),
        ("postgresql://me:p%40ss@h/db", "postgresql://me:***@h/db"),
        ("postgresql://me@h/db?password=p%40ss", "postgresql://me@h/db?password=***"),
    ],
)
def test_a_password_is_masked_and_found_again(
    url: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert masked(url) == written
    for name in ("PGPASSWORD", "AUTOTOK_STORAGE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    if url != written:
        with pytest.raises(ConfigError, match="is not kept in files: set AUTOTOK_STORAGE_PASSWORD"):
            filled_url(masked(url))
    monkeypatch.setenv("AUTOTOK_STORAGE_PASSWORD", "p@ss")
    assert filled_url(masked(url)).replace("p@ss", "p%40ss") == url


def test_a_damaged_journal_is_one_sentence(tmp_path: Path) -> None:
    folder, dice = tmp_path / "run", random.Random(0)
    run_search(SearchSettings(n_trials=3), fake_problem(), folder)
    log, said = folder / "study.log", list[str]()
    sound = log.read_bytes()
    for _ in range(40):
        lines = sound.splitlines(keepends=True)
        at = dice.randrange(len(lines))
        damage = [b"\0" * 40 + b"\n", b"5\n", b"[]\n", b"{}\n", b'{"op_code": 99}\n', b"\xff\n"]
        damage += [lines[at][: len(lines[at]) // 2] + b"\n", b'{"op_code": 4, "worker_id": 1}\n']
        lines[at] = dice.choice(damage)
        log.write_bytes(b"".join(lines))
        with contextlib.suppress(RunDirectoryError):
            said.append("")
            resume_search(fake_problem(), folder)
            said.pop()
    assert len(said) > 20
    log.write_bytes(sound.replace(b"\n", b"\n5\n", 1))
    with pytest.raises(RunDirectoryError, match=r"study file .* is damaged \(.*\); restore it"):
        resume_search(fake_problem(), folder)
