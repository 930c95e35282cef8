"""What nobody foresaw is one sentence with the place of its details; damaged runs say so too."""

import errno
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import autotok
from autotok.errors import ExportError, RunDirectoryError
from autotok.searching.space.settings import SearchSettings

Run = Callable[..., tuple[int, str, str]]
SETTINGS = SearchSettings(n_trials=3, images_few=20, images_more=20, images_final=40)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.onnx")


@pytest.fixture(autouse=True)
def details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where details are written; the logging level of a command does not outlive its test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    level = logging.getLogger("autotok").level
    yield tmp_path
    logging.getLogger("autotok").setLevel(level)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("one\ntwo \x1b[31m"),
            r"RuntimeError: one two \\x1b\[31m; this is",
        ),
        (KeyError("x"), "unexpected KeyError: 'x'; this is a fault of autotok"),
        (FULL, "the disk is full: 'out.onnx'; make room"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.json"),
            "Permission denied: 'a.json'",
        ),
        (MemoryError(), "the memory is exhausted"),
        (ImportError("libcudnn.so.9: cannot open"), "cannot be imported .libcudnn"),
        (RecursionError("maximum recursion depth exceeded"), "unexpected RecursionError"),
    ],
)
def test_any_exception_is_one_sentence_and_its_traceback_is_in_a_file(
    error: Exception, words: str, run: Run, monkeypatch: pytest.MonkeyPatch, details: Path
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(autotok, "describe_methods", fail, raising=False)
    code, out, err = run("methods")
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"autotok: .*{words}.* \(details in \S+\)\n", err), err
    (file,) = details.glob("autotok-*.txt")
    assert str(file) in err
    text = file.read_text("utf-8")
    assert text.startswith("Traceback (most recent call last):")
    assert "in fail" in text


def test_with_v_the_traceback_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(autotok, "search", fail, raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **kw: None)
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("autotok").addHandler(handler)
    try:
        code, _, err = run("search", "-v")
    finally:
        logging.getLogger("autotok").removeHandler(handler)
    assert code == 1
    assert err.count("\n") == 1
    assert "(details above)" in err
    assert "Traceback" in records[-1]


def test_a_reader_that_has_gone_is_met_with_silence() -> None:
    program = "import sys; sys.argv = ['autotok', 'methods', '--json'];"
    program += "from autotok import cli; cli.main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.fixture(scope="module")
def full_then_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose disk filled up while it was handed over, finished after room was made."""
    folder = tmp_path_factory.mktemp("runs") / "one"

    def no_room(*given: object, **named: object) -> None:
        raise FULL

    def no_file(*given: object, **named: object) -> None:
        raise ExportError("left out by this test")  # an ONNX file takes longer than the search

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotok.report.handover.save_bundle", no_room)
        with pytest.raises(RunDirectoryError) as caught:
            autotok.search("tiny", data="digits", budget="60%", settings=SETTINGS, output=folder)
    before = (folder / "trials.csv").read_text()
    assert not (folder / "best.yaml").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotok.export.bundle.export_model", no_file)
        autotok.resume(folder)
    assert (folder / "best.yaml").exists()
    assert (folder / "trials.csv").read_text() == before
    return folder, str(caught.value)


@pytest.mark.slow
def test_a_full_disk_at_the_end_costs_no_trial(full_then_resumed: tuple[Path, str]) -> None:
    folder, said = full_then_resumed
    assert said == (
        f"output folder '{folder}' is on a full disk; make room and continue with"
        f" `autotok resume {folder}`: finished trials are safe"
    )


def test_an_exporters_own_error_for_a_full_disk_is_known_too(tmp_path: Path) -> None:
    from autotok.searching.records.rundir import RunDirectory

    folder = RunDirectory(tmp_path)
    with pytest.raises(RunDirectoryError, match="full disk"), folder.guarded():
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="another"), folder.guarded():
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("name", "content", "command", "words"),
    [
        ("pareto.json", b'{"best": {"config"', "pareto", "pareto.json is damaged (JSONDecodeError"),
        ("pareto.json", b"[" * 100_000, "pareto", "pareto.json is damaged (RecursionError"),
        (
            "pareto.json",
            b"{}",
            "pareto",
            "pareto.json is damaged (KeyError: 'best'); write",
        ),
        ("pareto.json", b"[]", "pareto", "write it again with `autotok resume"),
        ("pareto.json", b"\xff\xfe", "pareto", "pareto.json is damaged (UnicodeDecodeError"),
        ("config.yaml", b"version: 1\nsearch: [", "resume", "config.yaml:2: is not valid YAML"),
        (
            "config.yaml",
            b"version: 1\nsearch: {seed: x}",
            "resume",
            "config.yaml:2: search.seed:",
        ),
        (
            "config.yaml",
            b"version: 1\nquestion: 7",
            "resume",
            "config.yaml:2: question: must",
        ),
        (
            "config.yaml",
            b"version: 1\nsearch: {n_trials: x}",
            "status",
            "config.yaml:2: search.n_t",
        ),
        (
            "config.yaml",
            b"version: 1\nquestion: {target: 7}",
            "pareto",
            "config.yaml:2: question.t",
        ),
        ("config.yaml", b"", "resume", "config.yaml: the run is not of version 1"),
        (
            "best.yaml",
            b"format: 1\nconfig: {method: 3}",
            "evaluate",
            "best.yaml:2: config.method:",
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    full_then_resumed: tuple[Path, str],
    run: Run,
    name: str,
    content: bytes,
    command: str,
    words: str,
) -> None:
    folder, _ = full_then_resumed
    path = folder / name
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        code, out, err = run(command, path if command == "evaluate" else folder)
    finally:
        path.write_bytes(good)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_damaged_table_of_trials_is_named(full_then_resumed: tuple[Path, str]) -> None:
    folder, _ = full_then_resumed
    path = folder / "trials.csv"
    good = path.read_bytes()
    for content in (
        b"",
        b'a,b\n"1',
        b"\xff\xfe\x00",
        b"a\n1,2\n1,2,3\n",
        b"number,state\nx,complete\n",
    ):
        path.write_bytes(content)
        try:
            with pytest.raises(RunDirectoryError, match=r"trials\.csv is damaged"):
                len(autotok.Run(folder).trials)
        finally:
            path.write_bytes(good)
