"""Devices as a search opens them: this machine, a board over ssh, a node of a cluster."""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autotok.api.models import compress
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.devices import device as devices
from autotok.devices.device import (
    LocalDevice,
    RayDevice,
    SshDevice,
    leaving,
    measure_on,
    open_device,
)
from autotok.devices.measure import measure
from autotok.devices.measurement import MeasurementFailed
from autotok.devices.ray_tasks import RayTasks
from autotok.devices.ssh_board import BoardFacts, RemoteDevice
from autotok.errors import AutotokError, DeviceUnreachable

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))

import sshd as server
from elsewhere import DEVICE, a_device_elsewhere
from test_runtimes import READING

needs_sshd = pytest.mark.skipif(bool(server.WHY_NOT), reason=server.WHY_NOT or "-")
HAS_RAY = all(importlib.util.find_spec(name) for name in ("ray", "pyarrow"))
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray[tune] is not installed")
of_ray = [  # its own, raised as it is imported and run
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning", "UserWarning")
]


@pytest.fixture(scope="module")
def model() -> CompressedViT:
    return compress(tiny_backbone(), method="tome", r=2)


# --- this machine


@pytest.mark.usefixtures("three_turns")
def test_the_local_device_measures_in_torch_beside_the_uncompressed_model(
    model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "footprint_of", lambda *_, **__: 321.0)
    device = open_device("local")
    assert device.check() == "this machine, eager"
    found = measure_on(device, model, batch=2)
    assert found.runtime == f"torch {torch.__version__} eager"
    assert found.batch == 2
    assert found.speedup is not None
    assert found.peak_memory_mb == 321.0
    assert found.memory_source.startswith("high-water mark of a process of its own")


@pytest.mark.slow
@pytest.mark.usefixtures("three_turns")
def test_where_there_can_be_no_process_of_its_own_memory_is_labelled_as_this_one_s(
    model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AutotokError("memory of 'tiny' could not be measured: no room")

    monkeypatch.setattr(devices, "footprint_of", fail)
    found = measure_on(LocalDevice(), model)
    assert found.peak_memory_mb > 50
    assert found.memory_source.startswith("process high-water mark")
    assert found.memory_source.endswith("with all else that this process holds")
    assert not found.memory_alone


def test_what_else_is_on_a_gpu_is_not_the_model_s(
    model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.zeros(2, 3, 32, 32)
    own = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    held = own + images.nbytes + 700 * 10**6
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held)
    found = dataclasses.replace(
        measure(model, images, rounds=1), peak_memory_mb=750.0, memory_source="CUDA allocator"
    )
    alone = devices._without_others(found, model, images)
    assert alone.peak_memory_mb == pytest.approx(50.0)
    assert alone.memory_source == "CUDA allocator, without what else is there"
    assert alone.memory_alone


# --- a board


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[server.Board]:
    monkeypatch.setenv("AUTOTOK_SSH", f"ssh -F {tmp_path / 'config'}")
    with server.sshd(tmp_path) as found:
        yield found


class RemoteBench:
    """Stands in for a board's connection: what it is asked, and readings that know no format."""

    def __init__(self, *runtimes: str) -> None:
        self.runtimes, self.asked = runtimes, list[tuple[str, str]]()

    def measure(self, path: Path, shape: Any, **how: Any) -> Any:
        self.asked.append((how["runtime"], how["number_format"]))
        real = RemoteDevice("ssh://me@board")
        told = {
            "latency_ms": 1.0, "p90_ms": 1.0, "mad_ms": 0.0, "runs": 1, "verdict": "steady",
            "reference_latency_ms": 2.0, "speedup": 2.0, "peak_memory_mb": 9.0,
            "memory_source": "made up", "runtime": how["runtime"], "threads": 1, "dtype": "float32",
        }  # fmt: skip
        facts = BoardFacts("board", "3.6.9", "Linux", 4, 4000.0, {}, {})
        return real._reading(told, facts, shape, how["number_format"])

    def close(self) -> None:
        pass


def bench(monkeypatch: pytest.MonkeyPatch, *runtimes: str) -> tuple[SshDevice, RemoteBench]:
    monkeypatch.setattr(devices, "export_for_timing", lambda *_: None)
    device, remote = SshDevice("ssh://me@board"), RemoteBench(*runtimes)
    monkeypatch.setattr(device._references, "file", lambda *_: Path("reference.onnx"))
    device._remote = remote  # type: ignore[assignment]
    return device, remote


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_a_number_format_is_measured_in_the_first_runtime_that_has_it_and_kept_in_the_reading(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, remote = bench(monkeypatch, "torch", "onnxruntime")
    made = compress_backbone(tiny_backbone(), CompressionConfig(number_format=name))
    with leaving(device):
        assert measure_on(device, made).dtype == name
    assert remote.asked == [("torch" if name == "float32" else "onnxruntime", name)]


def test_a_board_without_a_runtime_of_a_number_format_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, remote = bench(monkeypatch, "torch")
    made = compress_backbone(tiny_backbone(), CompressionConfig(number_format="int8"))
    with leaving(device), pytest.raises(MeasurementFailed, match=r"torch, .* int8; install onnxr"):
        measure_on(device, made)
    assert remote.asked == []


@needs_sshd
@pytest.mark.slow
@pytest.mark.usefixtures("quick_files")
def test_a_model_is_exported_measured_on_the_board_and_nothing_is_left_there(
    board: server.Board, model: CompressedViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "ROUNDS", 3)
    device = open_device(board.address())
    with leaving(device):
        assert "onnxruntime" in device.check()
        first, again = (measure_on(device, model) for _ in range(2))
        assert first.device.startswith("ssh://")
        assert first.runtime.startswith("onnxruntime")
        assert first.speedup is not None
        assert again.latency_ms > 0
        assert [path.name for path in board.tmp.glob("autotok.*")]  # one connection, kept
    assert board.left_behind == []


@needs_sshd
@pytest.mark.slow
def test_a_board_that_is_switched_off_is_unreachable(
    board: server.Board, model: CompressedViT
) -> None:
    device = open_device(board.address())
    device._remote._pauses_s = (0.1,)  # type: ignore[attr-defined]
    with leaving(device):
        device.check()
        board.drop()
        server.stop(board)
        with pytest.raises(DeviceUnreachable, match="does not answer"):
            measure_on(device, model)


# --- a node


def test_a_node_is_sent_what_any_can_take_and_runs_it_where_models_run_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, asked, sent = compress(tiny_backbone(), method="tome", r=2), [], []

    def timed(runtime: str, model: Any, images: Any, reference: Any, **_: Any) -> Any:
        asked.extend(_places(model, reference, images))
        return READING

    class Tasks:
        def run(self, function: Any, *arguments: Any, limit_s: float, gpu: bool) -> Any:
            sent.extend(_places(*arguments))
            assert gpu
            return function(*arguments)

    monkeypatch.setattr(devices, "measure_in", timed)
    monkeypatch.setattr(devices, "footprint_of", lambda *_, **__: 321.0)
    device = open_device("ray:board")
    device._tasks = Tasks()  # type: ignore[attr-defined]
    with a_device_elsewhere(), torch.no_grad():
        monkeypatch.setattr(devices, "torch_device", lambda: DEVICE)
        made.to(DEVICE)
        measure_on(device, made)
        assert _places(made) == {DEVICE}
        here = compress(tiny_backbone(), method="tome", r=2)
        measure_on(device, here)
    assert {*sent} == {torch.device("cpu")}
    assert {*asked} == {DEVICE}


def _places(*parts: Any) -> set[torch.device]:
    return {
        tensor.device
        for part in parts
        for tensor in (part.parameters() if isinstance(part, torch.nn.Module) else [part])
    }


@pytest.mark.parametrize(("gpus", "asks"), [(0, None), (2, 1)])
def test_a_gpu_is_asked_of_ray_where_a_node_with_the_resource_has_one(
    gpus: int, asks: int | None
) -> None:
    nodes = [
        {"Alive": True, "NodeManagerAddress": "a", "Resources": {"board": 1, "GPU": gpus}},
        {"Alive": True, "NodeManagerAddress": "b", "Resources": {"GPU": 8}},
    ]
    given: list[dict[str, Any]] = []

    def remote(**how: Any) -> Any:
        given.append(how)
        return lambda function: SimpleNamespace(remote=function)

    ray = SimpleNamespace(
        nodes=lambda: nodes, remote=remote, wait=lambda *_, **__: (["it"], []), get=lambda it: it,
        exceptions=SimpleNamespace(RayTaskError=(), OutOfMemoryError=(), RayError=()),
    )  # fmt: skip
    tasks = object.__new__(RayTasks)
    tasks._ray, tasks.resource, tasks._patience_s = ray, "board", 1.0
    assert tasks.run(lambda: 7, limit_s=1.0, gpu=True) == 7
    assert tasks.run(lambda: 8, limit_s=1.0) == 8
    assert [how.get("num_gpus") for how in given] == [asks, None]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, the second with a board."""
    from ray.cluster_utils import Cluster

    from autotok.devices.ray_cluster import load_ray

    ray = load_ray()
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick},
    )
    found.second = found.add_node(num_cpus=1, resources={"board": 1})
    yield found
    ray.shutdown()
    found.shutdown()


@needs_ray
@pytest.mark.slow
class TestOnACluster:
    pytestmark = of_ray

    def test_a_model_is_measured_on_the_node_that_carries_the_resource(
        self, cluster: Any, model: CompressedViT
    ) -> None:
        with pytest.raises(DeviceUnreachable, match="carries the resource 'other'"):
            open_device(f"ray:other@{cluster.address}").check()
        device = open_device(f"ray:board@{cluster.address}")
        assert isinstance(device, RayDevice)
        with leaving(device):
            assert "of the Ray cluster" in device.check()
            assert (device.memory_mb() or 0) > 500
            found = measure_on(device, model)
            assert found.device.startswith("ray:board (")
            assert found.threads == len(os.sched_getaffinity(0))
            assert found.speedup is not None
            assert found.memory_source.startswith("high-water mark of a process of its own")
            cluster.remove_node(cluster.second, allow_graceful=False)
            device._tasks._patience_s = 1.0  # type: ignore[union-attr]
            with pytest.raises(DeviceUnreachable, match="no live node"):
                measure_on(device, model)
