"""What scripts outside the package import of it is there: they are run by hand, long after."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from autotok.searching.running.question import Question

ROOT = Path(__file__).parents[1]
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
