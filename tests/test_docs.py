"""Every command in the README and the pages of the site runs, or at least parses; see MARKS.

A fenced block of commands or Python follows a comment that says which: `run` in the default tests,
`run: slow` in the long ones, `parse: what it lacks` or `compile: what it lacks` nowhere. An example
that a page takes in is run by test_examples.py.
"""

import importlib
import json
import pkgutil
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import autotok
from autotok import cli
from autotok.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKS = r"(?:<!-- (run|run: slow|parse: [^>]+|compile: [^>]+|ci: \w+) -->\n+)?"
START = ROOT / "docs" / "index.md"


@dataclass(frozen=True)
class Block:
    page: Path
    mark: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").replace("&&", "\n").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(rf"{MARKS}^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            yield Block(page, match[1] or "", match[2], match[3])


BLOCKS = list(blocks())
OURS = [c for b in BLOCKS if not b.language for c in b.commands if c[0] == "autotok"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b.page.stem}: {b.text.splitlines()[0]}")
def test_a_block_says_whether_it_runs(block: Block) -> None:
    assert block.language in ("", "python", "yaml")
    assert block.mark, f"{block.page.name}: no mark before the block that begins {block.text[:60]}"
    assert block.language == "" or not block.mark.startswith("parse")
    if block.language == "yaml":
        assert isinstance(yaml.safe_load(block.text), dict)
    if block.mark.startswith("run") and block.language == "":
        assert all(command[0] == "autotok" for command in block.commands)


@pytest.fixture(scope="module")
def parser() -> Any:
    """The command line, of which no command does anything."""
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name != "__main__":
            importlib.import_module(f"autotok.cli.{module.name}")
    root = typer.main.get_command(app)
    commands = [root]
    for command in commands:  # which grows
        commands += getattr(command, "commands", {}).values()
        command.callback = None
    return root


@pytest.mark.parametrize("command", OURS, ids=lambda words: " ".join(words)[:60])
def test_a_command_is_one_that_the_command_line_takes(command: list[str], parser: Any) -> None:
    assert parser.main(command[1:], prog_name="autotok", standalone_mode=False) is None


def test_a_command_that_is_not_one_is_found(parser: Any) -> None:
    for wrong in (["search", "--bugdet", "50%"], ["serach"], ["targets", "shwo"], ["tokens"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parser.main(wrong, prog_name="autotok", standalone_mode=False)


PYTHON = [b for b in BLOCKS if b.language == "python" and "--8<--" not in b.text]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.page.stem)
def test_python_on_a_page_runs(block: Block) -> None:
    code = compile(block.text, str(block.page), "exec")
    if block.mark == "run":
        exec(code, {"__name__": "__main__"})
    assert block.mark.split(":")[0] in ("run", "compile")


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx", "three_turns")
def test_the_commands_of_the_pages_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one folder, the start first: other pages look at the run that it leaves."""
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in sorted(BLOCKS, key=lambda block: block.page != START):
        for command in block.commands if block.mark == "run: slow" else ():
            monkeypatch.setattr("sys.argv", command)
            with pytest.raises(SystemExit) as ended:
                cli.main()
            said = capsys.readouterr().err[-500:]
            assert not ended.value.code, f"{block.page.name}: {shlex.join(command)}: {said}"
            ran += 1
    assert ran
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


def test_the_reference_lists_public_names_and_each_once() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    names = re.findall(r"^::: autotok\.(\w+)$", text, re.MULTILINE)
    assert names
    assert set(names) <= set(autotok.__all__)
    assert len(names) == len(set(names))


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert all(page.name in contents for page in PAGES[1:])


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not any(cell.get("outputs") for cell in cells), "keep outputs out of git"
    names: dict[str, Any] = {"__name__": "__main__"}
    for source in code:
        exec(compile(source, path.name, "exec"), names)
