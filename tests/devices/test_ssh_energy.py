"""What a board behind ssh says of its energy and of its GPU, with made-up counters."""

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import sshd as server
from sensors import jetson, old_jetson, package
from small_files import SHAPE, needs_sshd, onnx_file

from autotok.devices.ssh_board import RemoteDevice


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
        pytest.param(
            *(working, "RAPL, 1 processor package"),
            marks=pytest.mark.slow,
            id="a processor that counts",
        ),
        pytest.param(partial(placed, jetson), "INA3221, VDD_IN", id="a Jetson"),
        pytest.param(
            *(partial(placed, old_jetson), "INA3221, CPU + GPU"),
            marks=pytest.mark.slow,
            id="an older Jetson",
        ),
        pytest.param(partial(placed, lambda sysfs: None), "", id="nothing"),
    ],
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


@pytest.mark.slow
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
