"""House rules read off the source: floors, guests kept in one file, light imports."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import autotok

PACKAGE = Path(autotok.__file__).parent
FLOORS = {
    "errors": 0, "tokens": 0, "config": 0, "exits": 0, "facts": 0, "files": 0, "metrics": 0,
    "names": 0, "registry": 0, "documents": 0, "plain_data": 0, "interrupts": 0, "threads": 0,
    "pruned_spec": -1, "finetune_spec": -1,  # below config, which holds them
    "methods": 1, "backbones": 1,
    "compression": 2,
    "counting": 3, "evaluation": 3, "export": 3,
    "devices": 4, "training": 4, "supernet": 4,
    "predicting": 5,
    "searching": 6,
    "report": 7, "testing": 7, "studies": 7,
    "api": 8, "diagnosis": 8,
    "cli": 9, "__main__": 10,
    "__init__": 10,
}  # fmt: skip
INNER = {
    "searching": {"records": 0, "space": 1, "proposing": 2, "engines": 2, "running": 3},
}
"""Floors inside a room."""
NEVER_MEET = {("methods", "backbones"), ("backbones", "methods")}
GUESTS = {
    "timm": {
        "backbones/timm_names.py",
        "backbones/timm_heads.py",
        "backbones/timm_vit.py",
        "backbones/timm_eva.py",
        "backbones/timm_relative.py",
        "backbones/timm_refusals.py",
        "backbones/timm_classifier.py",
        "backbones/timm_family.py",
        "backbones/timm_checkpoint.py",
        "backbones/feature_net.py",
        "training/schedule.py",
        "training/variation.py",
    },
    "optuna": {
        f"searching/proposing/{name}.py"
        for name in (
            *("proposals", "identity", "storage", "journal", "samplers", "importance"),
            *("shown_study", "shadow_study"),
        )
    },
    "transformers": set(),  # by name alone, in backbones/hf_family.py
    "ray": {"searching/engines/ray.py", "devices/ray_cluster.py"},
    "optuna_dashboard": {"report/dashboard.py"},
    "typer": {f"cli/{p.name}" for p in (PACKAGE / "cli").glob("*.py")},
}
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
UNMIRRORED = 50
"""Modules that no test file mirrors: tested by those of their neighbours; may only fall."""


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """Absolute names of everything a file imports, at any depth, outside TYPE_CHECKING blocks."""
    tree = parsed(path)
    package = ["autotok", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} if node.module else {f"{module}.{a.name}" for a in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_lower_floors(path: Path) -> None:
    mine = room(path)
    assert mine in FLOORS, f"{mine} has no floor: give it one"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "autotok" or len(parts) == 1:
            continue
        theirs = parts[1]
        if theirs == mine:
            continue
        assert theirs in FLOORS, name
        # every room may raise, and read; exits are a part of the configuration
        if theirs not in {"errors", "documents", "plain_data", "names", "exits"}:
            assert FLOORS[theirs] < FLOORS[mine], f"{mine} imports {name}"
        assert (mine, theirs) not in NEVER_MEET, f"{mine} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_floors_hold_inside_a_room_too(path: Path) -> None:
    floors = INNER.get(room(path))
    parts = path.relative_to(PACKAGE).parts
    if floors is None or len(parts) < 3:
        return
    for name in imports(path):
        theirs = name.split(".")[2:3]
        if name.startswith(f"autotok.{parts[0]}.") and theirs != [parts[1]]:
            assert floors[theirs[0]] < floors[parts[1]], f"{path} imports {name}"


def test_no_imports_go_in_a_circle() -> None:
    names = {
        ".".join(["autotok", *path.relative_to(PACKAGE).with_suffix("").parts]): path
        for path in FILES
        if path.name != "__init__.py"
    }
    arrows = {name: imports(path) & names.keys() for name, path in names.items()}
    while free := [name for name, theirs in arrows.items() if not theirs & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert not arrows, f"these import each other: {sorted(arrows)}"


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_library_is_imported_in_its_own_file_only(guest: str) -> None:
    users = {
        str(path.relative_to(PACKAGE).as_posix())
        for path in FILES
        if any(name.split(".")[0] == guest for name in imports(path))
    }
    assert users <= GUESTS[guest]


def test_the_command_line_imports_autotok_and_nothing_behind_it() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        tree = parsed(path)  # what only types are imported for too
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names |= {n.module or "" for n in froms if not n.level}
        assert all(n.split(".")[0] != "autotok" or n == "autotok" for n in names), path
        assert not any(n.level > 1 for n in froms), path


def test_importing_autotok_and_the_command_line_stays_light() -> None:
    code = (
        "import sys, autotok, autotok.cli.app, autotok.cli.catalog, autotok.cli.models,"
        " autotok.cli.runs, autotok.cli.doctor, autotok.cli.dashboard, autotok.cli.supernet,"
        " autotok.cli.study;"
        "heavy = {'torch','timm','optuna','pandas','numpy','matplotlib','onnx','sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_all_equals_the_public_names() -> None:
    for name in autotok.__all__:
        assert getattr(autotok, name) is not None
    assert set(autotok.__all__) == set(dir(autotok))


def test_no_public_class_or_function_is_named_twice() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                found.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def mirrored(path: Path) -> bool:
    """Whether a module has tests of its own; the room goes in front where a name is used twice."""
    *rooms, name = path.relative_to(PACKAGE).with_suffix("").parts
    folder = Path(__file__).parent.joinpath(*rooms)
    names = [f"test_{name}.py", *(f"test_{room}_{name}.py" for room in rooms[-1:])]
    return any((folder / name).is_file() for name in names)


def test_no_two_test_files_share_a_name() -> None:
    """pytest takes a test file's name for its module: the second one would not be collected."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}


def test_modules_without_a_mirror_in_the_tests_only_become_fewer() -> None:
    missing = [p for p in FILES if p.name[0] != "_" and not mirrored(p)]
    assert len(missing) <= UNMIRRORED, f"give what is new a test file: {missing}"


def test_nothing_is_called_utils_and_nothing_prints() -> None:
    for path in FILES:
        assert path.stem not in {"utils", "helpers", "common"}
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"print", "eval", "exec"}, f"{path}:{node.lineno}"


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    root = PACKAGE.parent
    forbidden = re.compile(r"/work/|\.\./shared|/root/")
    for path in [*FILES, *(root / "README.md", root / "CONTRIBUTING.md")]:
        if path.exists():
            assert not forbidden.search(path.read_text("utf-8")), path
