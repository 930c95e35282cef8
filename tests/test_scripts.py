"""What scripts outside the package import of it is there: they are run by hand, long after."""

import ast
import importlib
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autotok.searching.running.question import Question

ROOT = Path(__file__).parents[1]
SMALLEST = {
    "counting.py": "",
    "evaluation.py": "--images 2 --methods none,tome --precision bfloat16",
    "exports.py": "speed --backbone tiny --data digits --methods tome --seconds 0.2 --images 4",
    "fit_targets.py": "rtx3090 fixed_ms matmul",
    "long_run.py": "--trials 4 --images 4",
    "repeatability.py": "--backbone vit_tiny_patch16_224 --minutes 0.01 --load 0",
    "search.py": "demo@3GFLOPs --seeds 2 --evaluations 5 --algorithms auto,random,user:random",
    "search_overhead.py": "--trials 100 --study 100",
    "workers.py": "local --workers 1 --evaluations 2 --seconds 0.01",
}
"""Of each benchmark that no test of its own runs, the words for its smallest run."""
SCRIPTS = [
    path for name in ("benchmarks", "studies", "examples") for path in (ROOT / name).rglob("*.py")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_of_the_package_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "autotok":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_the_questions_of_recorded_searches_are_such_as_a_run_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "studies" / "search_benchmark")
    questions = importlib.import_module("record").QUESTIONS
    assert len(questions) == 3
    for question in questions.values():
        assert Question.from_dict(question.to_dict()) == question
    del sys.modules["record"]


def test_every_benchmark_of_less_than_minutes_is_run_by_some_test() -> None:
    own = {"accelerator.py", "engine.py", "engine_cases.py", "engine_table.py", "export_matrix.py"}
    takes_minutes = {"calibration.py"}  # what it calls is tested with calibrations
    here = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert here == SMALLEST.keys() | own | takes_minutes


@pytest.mark.slow
@pytest.mark.usefixtures("three_turns")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name in SMALLEST if name != "workers.py"])
def test_a_benchmark_runs_to_its_end(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [name, *SMALLEST[name].split()])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(ROOT / "benchmarks" / name), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_benchmark_of_worker_processes_runs_to_its_end_as_a_script_of_its_own(
    tmp_path: Path,
) -> None:
    script = ROOT / "benchmarks" / "workers.py"
    done = subprocess.run(
        [sys.executable, str(script), *SMALLEST["workers.py"].split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
