"""Remote boards, against a real sshd on the loopback address."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import sshd as server
import torch
from onnx import TensorProto, helper, numpy_helper
from sensors import jetson, old_jetson, package

from autotok.devices import board as board_side
from autotok.devices.measurement import MeasurementFailed
from autotok.devices.ssh_address import SshAddress
from autotok.devices.ssh_board import BoardFacts, RemoteDevice
from autotok.errors import AutotokError, ConfigError, DeviceUnreachable, UnknownName

SHAPE = (1, 3, 8, 8)
needs_sshd = pytest.mark.skipif(bool(server.WHY_NOT), reason=server.WHY_NOT or "-")


def onnx_file(path: Path, *, repeats: int = 1, width: int = 16) -> Path:
    """A small model; with many repeats, one that wants 768 bytes times as many."""
    weight = np.random.default_rng(0).normal(size=(192, width)).astype(np.float32)
    times = np.array([repeats, 1, 1, 1], dtype=np.int64)
    nodes = [
        helper.make_node("Tile", ["images", "times"], ["tiled"]),
        helper.make_node("Flatten", ["tiled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["all"]),
        helper.make_node("ReduceMax", ["all"], ["logits"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(times, "times")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Board]:
    folder = tmp_path_factory.mktemp("board")
    before = os.environ.get("AUTOTOK_SSH")
    os.environ["AUTOTOK_SSH"] = f"ssh -F {folder / 'config'}"
    try:
        with server.sshd(folder) as found:
            yield found
    finally:
        os.environ.pop("AUTOTOK_SSH")
        if before is not None:
            os.environ["AUTOTOK_SSH"] = before


@pytest.fixture
def device(board: server.Board) -> Iterator[RemoteDevice]:
    found = RemoteDevice(board.address(), connect_s=10.0, pauses_s=(0.1, 0.2))
    yield found
    found.close()
    assert board.left_behind == []


# --- without a connection


def test_the_board_file_parses_as_python_3_6_and_imports_nothing_of_autotok() -> None:
    source = Path(board_side.__file__).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    further = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert further == {"torch", "onnxruntime", "numpy"}


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
    with pytest.raises(board_side.Trouble, match="no importer") as caught:
        board_side._measure({**task, "paths": [str(tmp_path / "broken.onnx")]})
    assert caught.value.kind == "load"


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
    assert server.until(lambda: not board.workers, 10.0)


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


@contextmanager
def working(sysfs: Path) -> Iterator[None]:
    """A processor that uses a millijoule every two milliseconds."""
    zone, over = package(sysfs, 0, 0), threading.Event()

    def work() -> None:
        used = 0
        while not over.wait(0.002):
            used = (used + 1000) % 1_000_000
            (zone / "next").write_text(f"{used}\n")
            (zone / "next").replace(zone / "energy_uj")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def placed(machine: Callable[[Path], None], sysfs: Path) -> Iterator[None]:
    machine(sysfs)
    yield


@needs_sshd
@pytest.mark.parametrize(
    ("machine", "source"),
    [
        (working, "RAPL, 1 processor package"),
        (partial(placed, jetson), "INA3221, VDD_IN"),
        (partial(placed, old_jetson), "INA3221, CPU + GPU"),
        (partial(placed, lambda sysfs: None), ""),
    ],
    ids=["a processor that counts", "a Jetson", "an older Jetson", "nothing"],
)
def test_a_board_tells_the_energy_that_it_counts(
    board: server.Board,
    tmp_path: Path,
    machine: Callable[[Path], AbstractContextManager[None]],
    source: str,
) -> None:
    sysfs = tmp_path / "sys"
    path = board.command("counting", f"export AUTOTOK_SYSFS={shlex.quote(str(sysfs))}")
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    small = onnx_file(tmp_path / "small.onnx", repeats=200)
    with machine(sysfs):
        reading = device.measure(small, SHAPE, runtime="onnxruntime", rounds=3)
        device.energy = False
        without = device.measure(small, SHAPE, runtime="onnxruntime", rounds=3)
    device.close()
    assert reading.energy_source == source
    assert (reading.energy_mj is None) if source == "" else (reading.energy_mj or 0.0) > 0.0
    assert (reading.host_ms, reading.device_ms) == (None, None)
    assert (without.energy_mj, without.energy_source) == (None, "")


FAKE_TORCH = '''
"""A GPU that works three times as long as the host, on a clock that only work moves."""
import time
from contextlib import contextmanager
from types import SimpleNamespace

__version__, clock = "9.9", [0.0]
time.perf_counter = lambda: clock[0]


def spend(seconds):
    clock[0] += seconds


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        self.at = 3 * clock[0]

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


class Module:
    def eval(self):
        return self

    def __call__(self, images):
        assert images == ((1, 3, 8, 8), "cuda")
        spend(0.002)


@contextmanager
def no_grad():
    yield


def rand(*shape):
    return SimpleNamespace(to=lambda device: (shape, device))


get_num_threads = lambda: 4
jit = SimpleNamespace(load=lambda path, map_location: Module())
cuda = SimpleNamespace(
    Event=Event,
    is_available=lambda: True,
    get_device_name=lambda index: "a made-up GPU",
    get_device_properties=lambda index: SimpleNamespace(uuid="ab-cd"),
    current_stream=lambda device: None,
    synchronize=lambda device: spend(0.004),
    reset_peak_memory_stats=lambda device: None,
    max_memory_allocated=lambda device: 5000000,
)
'''
FAKE_NVML = '''
"""Thirty watts, on that clock."""
import torch

nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 8
nvmlDeviceGetHandleByIndex = None
nvmlDeviceGetHandleByUUID = {"GPU-ab-cd": 6}.__getitem__
nvmlDeviceGetPowerUsage = lambda handle: 30000
nvmlDeviceGetTotalEnergyConsumption = lambda handle: 30000 * torch.clock[0]
'''


@needs_sshd
def test_on_cuda_the_host_and_the_device_are_timed_apart_and_nvml_counts(
    board: server.Board, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    (tmp_path / "pynvml.py").write_text(FAKE_NVML)
    (tmp_path / "small.pt").write_bytes(b"a model")
    path = board.command("made-up-gpu", f"export PYTHONPATH={shlex.quote(str(tmp_path))}")
    device = RemoteDevice(board.address(f"python={path}&runtime=torch"), pauses_s=())
    reading = device.measure(tmp_path / "small.pt", SHAPE, runtime="torch", rounds=3)
    device.close()
    assert reading.latency_ms == pytest.approx(6.0)
    assert (reading.host_ms, reading.device_ms) == (pytest.approx(2.0), pytest.approx(6.0))
    assert reading.energy_mj == pytest.approx(30.0 * 6.0)
    assert reading.energy_source == "NVML, energy"
    assert reading.peak_memory_mb == pytest.approx(5.0)
    assert board.left_behind == []


@needs_sshd
def test_a_greeting_on_the_line_is_passed_over(board: server.Board) -> None:
    board.command("greeting", 'echo "Welcome to the board"; echo "{}"')
    path = board.bin / "greeting"
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    assert device.hello().runtimes.keys() == {"onnxruntime"}
    device.close()


@needs_sshd
def test_a_dropped_connection_is_made_again_and_the_measurement_repeated(
    device: RemoteDevice, board: server.Board, tmp_path: Path
) -> None:
    small = onnx_file(tmp_path / "small.onnx", repeats=4000)
    device.hello()
    assert len(board.sessions) >= 1

    def drop_while_it_measures() -> None:
        if server.until(lambda: len(board.workers) >= 2, 20.0):
            time.sleep(0.3)
        board.drop()

    first = board.workers
    thread = threading.Thread(target=drop_while_it_measures)
    thread.start()
    reading = device.measure(small, SHAPE, runtime="onnxruntime", rounds=40)
    thread.join()
    assert reading.runs > 0
    assert server.until(lambda: not set(first) & set(board.workers), 10.0), "still on the board"


@needs_sshd
def test_a_drop_in_mid_measurement_leaves_nothing_on_the_board(
    board: server.Board, tmp_path: Path
) -> None:
    slow = onnx_file(tmp_path / "slow.onnx", repeats=40_000, width=256)
    device = RemoteDevice(board.address(), pauses_s=())
    device.hello()

    def drop() -> None:
        server.until(lambda: len(board.workers) >= 2, 20.0)
        board.drop()

    thread = threading.Thread(target=drop)
    thread.start()
    with pytest.raises(DeviceUnreachable, match=r"does not answer .*tried 1 time") as caught:
        device.measure(slow, SHAPE, runtime="onnxruntime", rounds=500)
    thread.join()
    assert caught.value.exit_code == 4
    assert board.left_behind == []
    assert server.until(lambda: not board.workers, 10.0)


@needs_sshd
def test_a_device_that_is_gone_is_unreachable_after_the_last_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, server.sshd(folder) as board:
        patch.setenv("AUTOTOK_SSH", f"ssh -F {folder / 'config'}")
        device = RemoteDevice(board.address(), pauses_s=(0.05,))
        device.hello()
        sessions = board.sessions
        server.stop(board)
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        small = onnx_file(tmp_path / "small.onnx")
        with pytest.raises(DeviceUnreachable, match="tried 2 times") as caught:
            device.measure(small, SHAPE, runtime="onnxruntime")
        assert one_sentence(caught.value)
        device.close()


@needs_sshd
def test_a_key_that_is_not_known_there_is_told_at_once(
    board: server.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
    )
    text = (board.folder / "config").read_text()
    text = text.replace(str(board.folder / "user"), str(tmp_path / "other"))
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("AUTOTOK_SSH", f"ssh -F {tmp_path / 'config'}")
    with pytest.raises(DeviceUnreachable, match=r"Permission denied.*tried 1 time\)"):
        RemoteDevice(board.address(), pauses_s=(60.0,)).hello()


@needs_sshd
def test_a_slow_device_is_waited_for(board: server.Board, tmp_path: Path) -> None:
    path = board.command("slow", "sleep 0.8")
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    small = onnx_file(tmp_path / "small.onnx")
    reading = device.measure(small, SHAPE, runtime="onnxruntime", rounds=3)
    device.close()
    assert reading.runs >= 3


@needs_sshd
def test_a_measurement_that_takes_too_long_is_given_up_in_one_sentence(
    device: RemoteDevice, board: server.Board, tmp_path: Path
) -> None:
    slow = onnx_file(tmp_path / "slow.onnx", repeats=1_000_000, width=64)
    with pytest.raises(MeasurementFailed, match="after 2 s; give it more time") as caught:
        device.measure(slow, SHAPE, runtime="onnxruntime", timeout_s=2.0)
    assert one_sentence(caught.value)
    assert server.until(lambda: len(board.workers) == 1, 10.0), "the measurement still runs"
    small = onnx_file(tmp_path / "small.onnx")
    assert device.measure(small, SHAPE, runtime="onnxruntime", rounds=3).runs >= 3


@needs_sshd
def test_a_board_that_falls_silent_is_given_up(
    board: server.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.devices.ssh_link.SILENCE_S", 1.0)
    device = RemoteDevice(board.address(), pauses_s=())
    device.hello()
    (worker,) = board.workers
    os.kill(worker, signal.SIGSTOP)
    try:
        with pytest.raises(DeviceUnreachable, match="silent for 1 s"):
            device.measure(onnx_file(tmp_path / "s.onnx"), SHAPE, runtime="onnxruntime")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert board.left_behind == []


@needs_sshd
@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("exit 1", "older than 3.6 or does not run"),
        ('case "$2" in *version_info*) exit 1;; esac', "older than 3.6"),
    ],
)
def test_an_unsuitable_python_is_one_sentence(board: server.Board, first: str, words: str) -> None:
    path = board.command("odd", first)
    with pytest.raises(ConfigError, match=words) as caught:
        RemoteDevice(board.address(f"python={path}"), pauses_s=()).hello()
    assert one_sentence(caught.value)
    assert board.left_behind == []


@needs_sshd
def test_a_missing_python_is_one_sentence(board: server.Board) -> None:
    with pytest.raises(ConfigError, match=r"has no 'python3\.99'; name a Python 3\.6") as caught:
        RemoteDevice(board.address("python=python3.99"), pauses_s=()).hello()
    assert one_sentence(caught.value)


@needs_sshd
def test_a_missing_runtime_is_one_sentence(board: server.Board, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    path = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(ConfigError, match=r"has no runtime .*No module named 'torch'") as caught:
        RemoteDevice(board.address(f"python={path}"), pauses_s=()).hello()
    assert one_sentence(caught.value)
    assert board.left_behind == []


@needs_sshd
def test_running_out_of_memory_on_the_board_is_one_sentence(
    board: server.Board, tmp_path: Path
) -> None:
    path = board.command("tight", "ulimit -v 1500000")
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    huge = onnx_file(tmp_path / "huge.onnx", repeats=5_000_000)  # 3.8 GB
    with pytest.raises(MeasurementFailed, match=r"ran out of memory .* compress more") as caught:
        device.measure(huge, SHAPE, runtime="onnxruntime")
    assert one_sentence(caught.value)
    small = onnx_file(tmp_path / "small.onnx")
    assert device.measure(small, SHAPE, runtime="onnxruntime", rounds=3).runs >= 3
    device.close()
    assert board.left_behind == []


@needs_sshd
def test_a_file_that_the_runtime_refuses_names_another_runtime_or_version(
    device: RemoteDevice, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(MeasurementFailed, match="onnxruntime cannot load this model") as caught:
        device.measure(broken, SHAPE, runtime="onnxruntime")
    assert one_sentence(caught.value)


@needs_sshd
def test_nothing_listens_on_the_board_but_its_sshd(
    device: RemoteDevice, board: server.Board
) -> None:
    device.hello()
    (worker,) = board.workers
    sockets = [os.readlink(path) for path in Path(f"/proc/{worker}/fd").iterdir()]
    assert not [name for name in sockets if name.startswith("socket:")]


def one_sentence(error: AutotokError) -> bool:
    text = str(error)
    return "\n" not in text and "Traceback" not in text and not re.search(r"[a-z]\. [A-Z]", text)
