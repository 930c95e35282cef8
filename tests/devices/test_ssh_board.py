"""Remote boards, against a real sshd on the loopback address."""

import ast
import os
import sys
from pathlib import Path

import pytest
import sshd as server
import torch
from small_files import SHAPE, needs_sshd, onnx_file

from autotok.devices import board as board_side
from autotok.devices.ssh_address import SshAddress
from autotok.devices.ssh_board import BoardFacts, RemoteDevice
from autotok.errors import ConfigError, UnknownName

# --- without a connection


def test_the_board_file_parses_as_python_3_6_and_imports_nothing_of_autotok() -> None:
    source = Path(board_side.__file__).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    further = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert further == {"torch", "onnxruntime", "openvino", "numpy"}


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="onnxruntime"):
        SshAddress.parse("ssh://host?runtime=onnx")


def test_a_board_with_cuda_prefers_what_runs_there() -> None:
    runtimes = {"torch": {"cuda": True}, "onnxruntime": {"cuda": False}, "trtexec": {"cuda": True}}
    facts = BoardFacts("board", "3.6.9", "Linux", 4, 4000.0, runtimes, {})
    assert facts.preferred == ("torch", "trtexec", "onnxruntime")


def test_a_process_that_the_system_ended_ran_out_of_memory(tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(b"")
    with pytest.raises(board_side.Trouble, match="memory runs out") as caught:
        board_side._result(-9, b"", str(tmp_path / "said"))
    assert caught.value.kind == "memory"


def test_without_ssh_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTOK_SSH", "no-such-ssh")
    with pytest.raises(ConfigError, match="install OpenSSH's client"):
        RemoteDevice("ssh://host").hello()


def test_a_bare_trtexec_is_measured_by_the_times_it_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "trtexec"
    fake.write_text(
        "#!/usr/bin/env python3\nimport json, sys\n"
        "words = dict(w[2:].partition('=')[::2] for w in sys.argv[1:])\n"
        "if 'exportTimes' in words:\n"
        "    ms = float(open(words['loadEngine']).read())\n"
        "    json.dump([{'latencyMs': ms + i / 100} for i in range(5)], "
        "open(words['exportTimes'], 'w'))\n"
        "elif 'broken' in words['onnx']:\n    sys.exit('[E] Error: no importer for operator X')\n"
        "else:\n    speed = '4' if 'a.onnx' in words['onnx'] else '8'\n"
        "    open(words['saveEngine'], 'w').write(speed)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    task = {"runtime": "trtexec", "dtype": "float16", "rounds": 3, "timeout_s": 20.0}
    task |= {"parent": os.getppid(), "paths": [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]}
    found = board_side._measure(task)
    assert found["latency_ms"] == pytest.approx(4.02)
    assert found["speedup"] == pytest.approx(2.0, abs=0.01)
    assert found["runtime"] == "trtexec float16"
    lower = board_side._measure({**task, "dtype": "float32", "number_format": "int8"})
    assert lower["runtime"] == "trtexec int8"
    with pytest.raises(board_side.Trouble, match="no importer") as caught:
        board_side._measure({**task, "paths": [str(tmp_path / "broken.onnx")]})
    assert caught.value.kind == "load"


@pytest.mark.parametrize("flag", ["--stronglyTyped", "--fp16"])
def test_a_float16_file_is_built_as_the_trtexec_of_the_board_can(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trtexec").write_text(f"#!/bin/sh\necho '  {flag}  said on one line'\nexit 1\n")
    (tmp_path / "trtexec").chmod(0o755)
    built: list[str] = []
    monkeypatch.setattr(board_side, "_trtexec", lambda: str(tmp_path / "trtexec"))
    monkeypatch.setattr(board_side.EngineSlot, "_run", lambda self, words: built.extend(words))
    task = {"dtype": "float32", "number_format": "float16", "paths": ["a.onnx", "b.onnx"]}
    for path in task["paths"]:
        board_side.EngineSlot(task, path)
    assert built[2:] == [flag, "--onnx=b.onnx", "--saveEngine=b.onnx.engine"]


# --- over ssh


@needs_sshd
def test_a_board_is_measured_over_ssh_and_left_as_it_was(
    device: RemoteDevice, board: server.Board, tmp_path: Path
) -> None:
    facts = device.hello()
    assert facts.cores >= 1
    assert device.runtimes == ("onnxruntime",)
    small = onnx_file(tmp_path / "small.onnx", repeats=200)
    large = onnx_file(tmp_path / "large.onnx", repeats=4000)
    reading = device.measure(small, SHAPE, runtime="onnxruntime", reference=large, rounds=3)
    assert reading.reference_latency_ms is not None
    assert reading.latency_ms < reading.reference_latency_ms
    assert reading.speedup is not None
    assert reading.speedup > 1.0
    assert reading.peak_memory_mb > 10.0
    assert reading.device.startswith(f"ssh://{board.address('').split('//')[1]} (")
    assert reading.image_shape == (3, 8, 8)
    again = device.measure(small, SHAPE, runtime="onnxruntime", rounds=3, threads=1)
    assert (again.speedup, again.threads) == (None, 1)
    device.close()
    assert board.left_behind == []
    assert server.until(lambda: not board.workers, 60.0)


@needs_sshd
def test_a_board_keeps_references_and_the_last_model_only(
    device: RemoteDevice, board: server.Board, tmp_path: Path
) -> None:
    device.hello()
    link, (folder,) = device._link, board.tmp.glob("autotok.*")
    assert link is not None

    def put(text: str, *, passing: bool = True) -> str:
        (tmp_path / "model.onnx").write_text(text)
        name = link.put(tmp_path / "model.onnx", passing=passing)
        assert (folder / name).read_text() == text
        (folder / f"{name}.engine.log").touch()  # as trtexec leaves it
        return name

    def kept() -> set[str]:
        return {path.name for path in folder.glob("*.onnx*")}

    first, reference = put("a"), put("b", passing=False)
    assert put("b") == reference  # measured beside itself
    second = put("c")
    assert kept() == {reference, second, f"{reference}.engine.log", f"{second}.engine.log"}
    assert (put("a"), put("a", passing=False)) == (first, first)
    last = put("d")
    assert {name for name in kept() if name.endswith("onnx")} == {reference, first, last}


@needs_sshd
@pytest.mark.slow
def test_torchscript_is_measured_over_ssh(board: server.Board, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten()).eval()
    traced = torch.jit.trace(module, torch.rand(SHAPE))
    torch.jit.save(torch.jit.freeze(traced), str(tmp_path / "small.pt"))
    device = RemoteDevice(board.address("runtime=torch"), pauses_s=())
    reading = device.measure(tmp_path / "small.pt", SHAPE, runtime="torch", rounds=3)
    device.close()
    assert reading.runtime == f"torch {torch.__version__} TorchScript"
    assert reading.latency_ms > 0.0
    assert board.left_behind == []


@needs_sshd
def test_nothing_listens_on_the_board_but_its_sshd(
    device: RemoteDevice, board: server.Board
) -> None:
    device.hello()
    (worker,) = board.workers
    sockets = [os.readlink(path) for path in Path(f"/proc/{worker}/fd").iterdir()]
    assert not [name for name in sockets if name.startswith("socket:")]
