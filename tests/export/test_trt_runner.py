"""The TensorRT runner does its part, with an engine and a device that stand in."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotok.export import trt_runner


class FakeCuda:
    """Memory of the host as that of a device."""

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}

    def allocate(self, size: int) -> int:
        self.memory[len(self.memory) + 1] = np.zeros(size, np.uint8)
        return len(self.memory)

    def copy(self, to: int, source: int, size: int, way: int) -> None:
        device, host = (to, source) if way == trt_runner.TO_DEVICE else (source, to)
        there = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * size).from_address(host))
        if way == trt_runner.TO_DEVICE:
            self.memory[device][:] = there
        else:
            there[:] = self.memory[device]

    def wait(self) -> None:
        """Everything is done at once."""


@pytest.fixture
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    shapes: dict[str, Any] = {"images": (2, 3, 4, 4), "logits": (2, 3)}
    placed: dict[str, int] = {}

    def execute(stream: int) -> bool:
        images = cuda.memory[placed["images"]].view(np.float32).reshape(shapes["images"])
        cuda.memory[placed["logits"]].view(np.float32)[:] = images.sum((2, 3)).ravel()
        return bool(np.isfinite(images).all())

    def set_shape(name: str, shape: tuple[int, ...]) -> bool:
        return bool(shapes[name] == shape)

    context = types.SimpleNamespace(
        set_input_shape=set_shape,
        get_tensor_shape=shapes.__getitem__,
        set_tensor_address=placed.__setitem__,
        execute_async_v3=execute,
    )
    engine = types.SimpleNamespace(
        create_execution_context=lambda: context,
        get_tensor_name=lambda i: ["images", "logits"][i],
        get_tensor_shape=shapes.__getitem__,
    )
    fake: Any = types.ModuleType("tensorrt")
    fake.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    fake.Runtime = lambda logger: types.SimpleNamespace(
        deserialize_cuda_engine=lambda data: engine if data == b"engine" else None
    )
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(trt_runner, "Cuda", lambda: cuda)


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_images_go_through_the_engine_a_batch_at_a_time(tmp_path: Path, count: int) -> None:
    images = np.random.default_rng(0).normal(size=(count, 3, 4, 4)).astype(np.float32)
    (tmp_path / "m.engine").write_bytes(b"engine")
    np.save(tmp_path / "images.npy", images)
    names = ("m.engine", "images.npy", "logits.npy")
    trt_runner.run_engine([str(tmp_path / name) for name in names])
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, images.sum((2, 3)), rtol=1e-5)


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize(
    ("shape", "fill", "message"),
    [
        ((2, 3, 8, 8), 0.0, r"takes images of shape \(2, 3, 4, 4\), and these are \(2, 3, 8, 8\)"),
        ((0, 3, 4, 4), 0.0, "holds no images"),
        ((2, 3, 4, 4), np.nan, "the engine did not run"),
    ],
)
def test_what_the_engine_does_not_run_is_one_sentence(
    tmp_path: Path, shape: tuple[int, ...], fill: float, message: str
) -> None:
    (tmp_path / "m.engine").write_bytes(b"engine")
    engine = trt_runner.TrtEngine(str(tmp_path / "m.engine"))
    with pytest.raises(SystemExit, match=message):
        trt_runner.outputs_of(engine, np.full(shape, fill, np.float32))


@pytest.mark.usefixtures("_device")
def test_a_file_that_is_no_engine_of_this_device_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"of another GPU")
    with pytest.raises(SystemExit, match="is no engine of this TensorRT and GPU; build it here"):
        trt_runner.TrtEngine(str(tmp_path / "m.engine"))
