"""Every public name is what it promises to be, whatever was imported before it."""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import autotok

FORKS = """
import json, os, sys, traceback
import matplotlib.figure, onnx, onnxruntime, optuna, pandas, sklearn, torch, typer  # not ours
for line in sys.stdin:
    if os.fork() == 0:
        said = ""
        try:
            exec(json.loads(line), {})
        except BaseException:
            said = traceback.format_exc()
        print(json.dumps(said), flush=True)
        os._exit(0)
    os.wait()
"""
"""Runs each program in a process where libraries are imported and autotok is not."""


@pytest.fixture(scope="module")
def forks() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def run_in(process: "subprocess.Popen[str]", program: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(program) + "\n")
    process.stdin.flush()
    said = json.loads(process.stdout.readline())
    assert said == "", said


CHECK = """
import importlib, pkgutil, random, sys
assert "autotok" not in sys.modules
import autotok
modules = [m.name for m in pkgutil.walk_packages(autotok.__path__, "autotok.")
           if not m.name.endswith("__main__")]
names = [name for name in autotok.__all__ if name != "__version__"]
if order == "names first":
    steps = names + modules
elif order == "modules first":
    steps = modules + names
elif order == "backwards":
    steps = modules[::-1] + names[::-1]
else:
    steps = names + modules
    random.Random(int(order)).shuffle(steps)
wrong = []
def look(name, after):
    found = getattr(autotok, name)
    home = getattr(importlib.import_module(autotok._HOME[name]), name)
    if not callable(found) or found is not home:
        wrong.append(f"{name} is {found!r} after {after}")
for step in steps:
    if "." in step:
        importlib.import_module(step)
        look("export", step)
    else:
        look(step, step)
for name in names:
    look(name, "everything")
for package in {m.rpartition(".")[0] for m in modules} - {"autotok"}:
    room = importlib.import_module(package)
    wrong += [f"{package}.{name} is a file" for name in getattr(room, "__all__", ())
              if isinstance(getattr(room, name), type(sys))]
assert not wrong, wrong
"""


@pytest.mark.parametrize(
    "order",
    [
        pytest.param("names first", marks=pytest.mark.slow),
        pytest.param("modules first", marks=pytest.mark.slow),
        "backwards",
        pytest.param("0", marks=pytest.mark.slow),
    ],
)
def test_every_public_name_is_callable_whatever_was_imported_before(
    order: str, forks: "subprocess.Popen[str]"
) -> None:
    run_in(forks, f"order = {order!r}\n{CHECK}")


ROOM = """
import autotok
if first == "verb": autotok.export
import autotok.export.onnx as file
import autotok.export
from autotok.export import bundle
from autotok.export.pt2 import Pt2
assert callable(autotok.export) and not isinstance(autotok.export, type(autotok))
assert autotok.export.onnx is file and autotok.export.bundle is bundle
"""


@pytest.mark.parametrize("first", ["verb", "room"])
def test_the_verb_and_the_room_of_one_name_can_both_be_reached(
    first: str, forks: "subprocess.Popen[str]"
) -> None:
    run_in(forks, f"first = {first!r}\n{ROOM}")


def test_whatever_takes_a_path_takes_text() -> None:
    taken = [
        (name, parameter.name, parameter.annotation)
        for name in autotok.__all__
        if inspect.isfunction(function := getattr(autotok, name))
        for parameter in inspect.signature(function).parameters.values()
        if "Path" in str(parameter.annotation).split(" ")
    ]
    assert len(taken) > 15
    assert [t for t in taken if "str" not in t[2].split(" ")] == []


def test_what_is_a_name_or_a_path_may_be_a_path(tmp_path: Path) -> None:
    named = {"data", "train_data", "target", "space", "class_names"}
    only_devices = {("calibrate", "target"), ("plan_of", "target")}
    taken = {
        (name, parameter.name): str(parameter.annotation)
        for name in autotok.__all__
        if inspect.isfunction(function := getattr(autotok, name))
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name in named and "str" in str(parameter.annotation).split(" ")
    }
    assert len(taken) > 12
    assert {k for k, v in taken.items() if "Path" not in v.split(" ")} == only_devices
    space, missing = tmp_path / "space.yaml", tmp_path / "photos"
    space.write_text("methods: [topk]\n", "utf-8")
    with pytest.raises(autotok.AutotokError, match="photos"):
        autotok.search("tiny", data=missing, space=space, target=missing, output=tmp_path / "run")
    with pytest.raises(autotok.AutotokError, match="photos"):
        autotok.evaluate(autotok.load_backbone("tiny"), missing)


@pytest.mark.slow
def test_files_named_by_text_are_opened_or_missed_in_one_sentence(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.safetensors")
    for call in (
        lambda: autotok.load_backbone("tiny", checkpoint=missing),
        lambda: autotok.load_bundle(str(tmp_path / "best.yaml")),
        lambda: autotok.load_uncompressed(str(tmp_path)),
        lambda: autotok.finetune(str(tmp_path / "best.yaml"), checkpoint=missing),
        lambda: autotok.evaluate_subnets(checkpoint=missing),
        lambda: autotok.cut_subnet("default", str(tmp_path / "a.safetensors"), checkpoint=missing),
        lambda: autotok.train_supernet(str(tmp_path / "recipe.yaml"), str(tmp_path / "out")),
        lambda: autotok.read_question(str(tmp_path)),
    ):
        with pytest.raises(autotok.AutotokError, match=r"none\.safetensors|best\.yaml|recipe|fold"):
            call()
    model = autotok.compress(autotok.load_backbone("tiny"), autotok.CompressionConfig())
    written = autotok.write_bundle(model, str(tmp_path / "b"), checkpoint=None)
    assert autotok.load_bundle(written["folder"]).config.method == "none"
