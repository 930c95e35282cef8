"""A run in the browser: what its API shows, that it only reads, and that a search does not mind."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

pytest.importorskip("optuna_dashboard")
sys.path.insert(0, str(Path(__file__).parents[1] / "searching"))

from problems import FakeEvaluator, FakeTally, fake_problem, vit_facts

from autotok import cli
from autotok.config import CompressionConfig
from autotok.errors import RunDirectoryError, UsageError
from autotok.report.dashboard import dashboard_app
from autotok.searching.running.events import Event, TrialFinished
from autotok.searching.running.opening import run_search
from autotok.searching.space.settings import SearchSettings

SECTIONS = {"question": {"backbone": "fake", "data": "demo", "flops_convention": "macs"}}
PROGRAM = (  # a shell that runs tests in the background makes its children ignore interrupts
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from autotok.cli import main; main()"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    good = FakeEvaluator(vit_facts())

    def evaluate(config: CompressionConfig, start: int, stop: int) -> FakeTally:
        if config.method == "evit":
            raise RuntimeError("CUDA <b>out of memory</b>")
        return good(config, start, stop)

    settings = SearchSettings(n_trials=12)
    run_search(settings, fake_problem(evaluate=evaluate), folder, sections=SECTIONS)
    return folder


@contextmanager
def served(run: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-c", PROGRAM, "dashboard", str(run), "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + process.stdout.read()
        yield line.split("/dashboard")[0], process
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture(scope="module")
def url(finished: Path) -> Iterator[str]:
    with served(finished) as (address, _):
        yield address


def test_the_api_shows_names_notes_and_constraints(url: str) -> None:
    (study,) = get(f"{url}/api/studies")["study_summaries"]
    assert study["study_name"] == "autotok"
    detail = get(f"{url}/api/studies/{study['study_id']}")
    with urllib.request.urlopen(f"{url}/dashboard/studies/0", timeout=20) as page:
        assert b"<html" in page.read().lower()
    assert detail["objective_names"] == ["top1_pct [%]", "macs_g [G multiply-accumulates]"]
    question = detail["note"]["body"]
    assert "multiply-accumulates per image, attention included" in question
    assert "- **objective**: top1\\_pct \\[%\\], maximised" in question
    complete = [t for t in detail["trials"] if t["state"] == "Complete"]
    assert complete
    assert all(len(t["constraints"]) == 1 and t["constraints"][0] <= 0.0 for t in complete)
    for words in ("95 % interval", "after layer", "without attention products", "plug-in"):
        assert words in complete[0]["note"]["body"]
    failed = next(t["note"]["body"] for t in detail["trials"] if t["state"] == "Fail")
    assert "evit, plug-in, failed" in failed
    assert "\\<b\\>out of memory" in failed


def asked(run: Path, path: str) -> tuple[str, bytes]:
    """(status, body) of a page, in this process."""
    environ = {"HTTP_HOST": "localhost", "PATH_INFO": path}
    setup_testing_defaults(environ)
    said: list[str] = []
    answer = dashboard_app(run)(environ, lambda status, headers, info=None: said.append(status))
    body = b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    return said[0], body


def test_charts_have_names_and_the_searchs_own_notes_are_left_out(finished: Path) -> None:
    detail = json.loads(asked(finished, "/api/studies/0")[1])
    names = {parameter["name"] for parameter in detail["union_search_space"]}
    assert "cost asked for, as a share of the budget" in names
    assert not names & {"budget_fraction", "num_stages"}
    assert detail["user_attrs"] == []  # plans, bit strings of images, records of the final
    keys = {attribute["key"] for attribute in detail["union_user_attrs"]}
    assert {"method", "macs_g"} <= keys
    assert not keys & {"record", "config", "cost", "predicted", "in_process"}
    assert all(a["sortable"] for a in detail["union_user_attrs"] if a["key"] == "macs_g")


def test_the_runs_pictures_are_artifacts_as_soon_as_they_are_there(
    finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert json.loads(asked(run, "/api/studies/0")[1])["artifacts"] == []
    (run / "maps").mkdir()
    pictures = {"pareto.png": b"the front", "maps/00.png": b"a map"}
    for name, content in pictures.items():
        (run / name).write_bytes(content)
    found = json.loads(asked(run, "/api/studies/0")[1])["artifacts"]
    assert [a["filename"] for a in found] == ["pareto.png", "tokens-00.png"]
    assert {a["mimetype"] for a in found} == {"image/png"}
    contents = [asked(run, f"/artifacts/0/{a['artifact_id']}")[1] for a in found]
    assert contents == list(pictures.values())
    assert asked(run, "/artifacts/0/" + "0" * 8)[0].startswith("404")


def test_it_listens_on_this_machine_only_and_refuses_to_write(finished: Path, url: str) -> None:
    before = (finished / "study.log").read_bytes()
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises((ConnectionRefusedError, TimeoutError)):
        socket.create_connection(("127.0.0.2", port), 2)
    for method, path in (("PUT", "/api/studies/0/note"), ("DELETE", "/api/studies/0")):
        request = urllib.request.Request(
            url + path, b'{"version": 9, "body": "x"}', {"Content-Type": "application/json"},
            method=method,
        )  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code == 403
        assert "only shows the run" in refused.value.read().decode()
        refused.value.close()
    assert (finished / "study.log").read_bytes() == before


@pytest.mark.parametrize(
    ("host", "answers"),
    [
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("[::1]:80", True),
        ("rebound.example.com", False),
        ("rebound.example.com:8080", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("127.0.0.1:8080@example.com", False),
        ("10.0.0.7:8080", False),
        ("", False),
    ],
)
def test_it_answers_to_the_names_of_this_machine_only(
    finished: Path, host: str, answers: bool
) -> None:
    environ = {"HTTP_HOST": host, "PATH_INFO": "/api/studies"}
    setup_testing_defaults(environ)
    said: list[str] = []
    body = b"".join(
        dashboard_app(finished)(environ, lambda status, headers, info=None: said.append(status))
    )
    assert said == ["200 OK" if answers else "403 Forbidden"]
    assert (b"study_summaries" in body) == answers
    assert answers or b"answers on this machine only" in body


@pytest.mark.slow
def test_an_interruption_ends_it_quietly(finished: Path) -> None:
    with served(finished) as (url, process):
        get(f"{url}/api/studies")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


@pytest.mark.slow
def test_a_search_goes_on_while_a_dashboard_reads(tmp_path: Path) -> None:
    alone = run_search(SearchSettings(n_trials=10), fake_problem(), tmp_path / "alone")
    shown: list[int] = []
    open_servers: list[Any] = []

    def look(event: Event) -> None:
        if not isinstance(event, TrialFinished):
            return
        if not open_servers:
            context = served(tmp_path / "watched")
            open_servers.append((context, *context.__enter__()))
        shown.append(len(get(f"{open_servers[0][1]}/api/studies/0?after=0")["trials"]))

    try:
        watched = run_search(
            SearchSettings(n_trials=10), fake_problem(), tmp_path / "watched", look
        )
        time.sleep(2.1)  # the dashboard keeps an answer for two seconds
        shown.append(len(get(f"{open_servers[0][1]}/api/studies/0")["trials"]))
    finally:
        for context, *_ in open_servers:
            context.__exit__(None, None, None)
    assert [r.params for r in watched.records] == [r.params for r in alone.records]
    assert shown[-1] == len(watched.records)
    assert shown[0] < shown[-1]
    assert not list((tmp_path / "watched").glob("study.log.lock*"))


def test_what_cannot_be_served_is_one_sentence(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["autotok", "dashboard", str(finished), "--port", port, "--no-browser"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert f"port {port} is taken by another program; give another with --port" in err
    with pytest.raises(RunDirectoryError, match="holds no run"):
        dashboard_app(tmp_path)
    (tmp_path / "config.yaml").write_text("version: 1\n")
    with pytest.raises(RunDirectoryError, match=r"has no study\.log yet"):
        dashboard_app(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UsageError, match=r"pip install 'autotok\[dashboard\]'"):
        dashboard_app(finished)


@pytest.mark.slow
def test_a_study_in_a_database_is_served_too(tmp_path: Path) -> None:
    settings = SearchSettings(n_trials=3, storage=f"sqlite:///{tmp_path / 'study.db'}")
    run_search(settings, fake_problem(), tmp_path / "run", sections=SECTIONS)
    with served(tmp_path / "run") as (url, _):
        (study,) = get(f"{url}/api/studies")["study_summaries"]
        detail = get(f"{url}/api/studies/{study['study_id']}")
    assert "What this search was asked" in detail["note"]["body"]
    assert "### Trial 0" in detail["trials"][0]["note"]["body"]
