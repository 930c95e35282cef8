"""Names are checked before anything is loaded, and what the end needs before the first trial."""

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

import autotok
import autotok.api.runs
from autotok import cli
from autotok.errors import RunDirectoryError, UsageError
from autotok.report.search_run import WholeSearch
from autotok.searching.records.rundir import RunDirectory
from autotok.searching.running import question
from autotok.searching.running.question import Question, check_hand_over, check_names
from autotok.searching.running.session import build_problem
from autotok.searching.space.settings import SearchSettings

WRONG = [
    (("--sampler", "tpx"), "did you mean 'tpe'"),
    (("--engine", "rey"), "did you mean 'ray'"),
    (("--quality", "top2"), "did you mean 'top1'"),
    (("--quality", "own"), "give --evaluator MODULE:FUNCTION"),
    (("--evaluator", "a:b", "--quality", "kl"), "quality 'kl' is not what evaluator 'a:b' gives"),
    (("--subnet", "fix"), "did you mean 'fixed'"),
    (("--space", "defualt"), "did you mean 'default'"),
    (("--target", "jetson-xn"), "did you mean 'jetson-nx'"),
    (("--flops-convention", "mac"), "did you mean 'macs'"),
    (("--measure-on", "gpu7"), "--measure-on 'gpu7' is unknown"),
    (("--measure-on", "ssh://-oProxyCommand"), "is no ssh address"),
    (("--budget", "26ms"), "give --target"),
    (("--batch", "8"), "batch 8 is of latency, throughput and memory, and nothing tells these"),
    (("--formats", "float32,int9"), "did you mean 'int8'"),
    (("--image-sizes", "160,big"), "--image-sizes '160,big' is no list of whole numbers"),
    (("--formats", "int8"), "nothing asked for tells these; add --objective latency"),
    (
        ("--formats", "int8", "--target", "jetson-nx", "--budget", "26ms"),
        "int8 is timed from its exported file, never predicted alone; give --measure-on",
    ),
    (("--budget", "1e308GFLOPs"), "out of all proportion"),
    (("--seed", "-1"), "give a whole number from 0 to 4294967295"),
    (("--seed", "4294967296"), "give a whole number from 0 to 4294967295"),
    (("--timeout", "inf"), "must be positive and finite"),
    (("--output", "x" * 300), "File name too long; choose another --output"),
]
PROGRAM = """
import sys
from autotok import cli
for line in sys.stdin.read().splitlines():
    sys.argv = ["autotok", "search", *line.split("\\x1f")]
    try:
        cli.main()
    except SystemExit as end:
        sys.stderr.write(f"exit {end.code}\\n")
print(sorted({"torch", "timm", "optuna", "onnxruntime"} & set(sys.modules)))
"""


def test_wrong_names_and_numbers_of_a_search_are_told_without_importing_torch() -> None:
    lines = "\n".join("\x1f".join(arguments) for arguments, _ in WRONG)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=lines, capture_output=True, text=True, timeout=120
    )
    said = done.stderr.splitlines()
    assert done.stdout.strip() == "[]"
    assert said[1::2] == ["exit 2"] * len(WRONG), done.stderr
    for text, (_, words) in zip(said[::2], WRONG, strict=True):
        assert words in text


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="from 0 to 4294967295"):
        SearchSettings(seed=seed)
    with pytest.raises(UsageError, match="seed is"):
        autotok.FineTuneSpec(seed=seed)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -5.0, 0.0])
def test_a_time_limit_is_positive_and_finite(seconds: float) -> None:
    with pytest.raises(UsageError, match="positive and finite"):
        SearchSettings(timeout_s=seconds)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "-o", "x.onx", "--format", "onxx"), "did you mean 'onnx'"),
        (("evaluate", "--quality", "top2"), "did you mean 'top1'"),
        (("profile", "--target", "jetson-xn"), "did you mean 'jetson-nx'"),
        (("profile", "--method", "tomee", "-r", "3"), "did you mean 'tome'"),
        (("compress", "-o", "x", "--method", "evit", "--option", "fus=1"), "did you mean 'fuse'"),
    ],
)
def test_names_of_other_verbs_are_told_before_a_model_is_loaded(
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_loading(*given: object, **named: object) -> None:
        raise AssertionError("loaded a model first")

    monkeypatch.setattr("autotok.backbones.loading.load_backbone", no_loading)
    monkeypatch.setattr(sys, "argv", ["autotok", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_the_budgets_of_a_question_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = ("4.6GFLOPs", "12Mparams")
    asked = Question("tiny", data="digits", budgets=budgets, flops_convention="flops2x")
    seen: list[object] = []
    parse = question.parse_budgets
    monkeypatch.setattr(
        question, "parse_budgets", lambda *a, **k: [seen.append(a), parse(*a, **k)][1]
    )
    check_names(asked)
    build_problem(asked)
    assert [(r.metric, r.amount) for r in asked.requests] == [("macs", 2.3e9), ("params", 12e6)]
    assert len(seen) == 1
    assert Question.from_dict(asked.to_dict()) == asked  # what was parsed is no part of it


def test_a_search_by_the_command_line_says_and_checks_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def counted(owner: object, name: str) -> None:
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: [calls.append(name), whole(*a, **k)][1])

    def begin(whole: WholeSearch) -> None:
        assert [r.metric for r in whole.question.requests] == ["macs", "params"]
        raise UsageError("far enough")

    counted(question, "parse_budgets")
    counted(autotok.api.runs, "check_names")
    counted(RunDirectory, "check_new")
    monkeypatch.setattr(WholeSearch, "begin", begin)
    arguments = ["--budget", "2.3GFLOPs", "--budget", "12Mparams", "-o", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["autotok", "search", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, "far enough" in err) == (2, True)
    assert sorted(calls) == ["check_names", "check_new", "parse_budgets"]
    assert [line.split(" = ")[0] for line in out.splitlines()] == [
        "budget: 2.3 GFLOPs", "budget: 12 Mparams"
    ]  # fmt: skip


def test_good_names_pass() -> None:
    check_names(Question(batch=8, measure_on="local"))
    check_names(Question(batch=8, target="jetson-nx"))
    check_names(
        Question(budgets=("26ms",), target="jetson-nx", measure_on="ssh://me@board"), engine="ray"
    )
    check_names(Question(budgets=("50%",), measure_on="local?runtime=compile"))


def test_a_disk_with_too_little_room_is_told_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5 * 10**6, 5 * 10**6)
    monkeypatch.setattr(question.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunDirectoryError, match="with 5 MB left"):
        check_hand_over(tmp_path / "new" / "run")
