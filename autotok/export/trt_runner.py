"""Runs a TensorRT engine on images: python3 trt_runner.py model.engine images.npy logits.npy

Needs tensorrt 8.5 or later (with its Python package), numpy and the CUDA runtime library; nothing
else. `images.npy` holds (n, C, H, W) float32, prepared as preprocessing.json says.
"""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
TO_DEVICE, TO_HOST = 1, 2


class Cuda:
    """The four calls of the CUDA runtime that are needed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcudart.so")

    def allocate(self, size: int) -> int:
        """Address of so many bytes on the device."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value or 0)

    def copy(self, to: int, source: int, size: int, way: int) -> None:
        """Copies bytes; ends when they are there."""
        places = ctypes.c_void_p(to), ctypes.c_void_p(source)
        self._call("cudaMemcpy", *places, ctypes.c_size_t(size), way)

    def wait(self) -> None:
        """Ends when the device has done everything."""
        self._call("cudaDeviceSynchronize")

    def _call(self, name: str, *values: Any) -> None:
        code = getattr(self._library, name)(*values)
        if code:
            sys.exit(
                f"{name} failed with CUDA error {code}; is the GPU free and its memory enough?"
            )


class TrtEngine:
    """An engine with one input and one output."""

    def __init__(self, path: str) -> None:
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        with open(path, "rb") as file:
            self._engine = tensorrt.Runtime(logger).deserialize_cuda_engine(file.read())
        if self._engine is None:
            sys.exit(f"'{path}' is no engine of this TensorRT and GPU; build it here again")
        self._context = self._engine.create_execution_context()
        self._names = [self._engine.get_tensor_name(i) for i in range(2)]
        self._cuda = Cuda()
        self._held: dict[tuple[str, int], int] = {}

    @property
    def batch(self) -> int:
        """Images per run."""
        return max(1, int(self._engine.get_tensor_shape(self._names[0])[0]))

    def __call__(self, images: Array) -> Array:
        """Outputs (batch, classes) of images (batch, C, H, W), as many as the engine takes."""
        cuda, context = self._cuda, self._context
        images = np.ascontiguousarray(images, np.float32)
        if not context.set_input_shape(self._names[0], images.shape):
            wanted = tuple(self._engine.get_tensor_shape(self._names[0]))
            sys.exit(
                f"the engine takes images of shape {wanted}, and these are {images.shape}; prepare"
                " them as preprocessing.json says, or build the engine for them"
            )
        logits = np.empty(tuple(context.get_tensor_shape(self._names[1])), np.float32)
        places = [self._place(*item) for item in zip(self._names, (images, logits), strict=True)]
        cuda.copy(places[0], images.ctypes.data, images.nbytes, TO_DEVICE)
        if not context.execute_async_v3(0):
            sys.exit("the engine did not run; TensorRT's own lines above say why")
        cuda.wait()
        cuda.copy(logits.ctypes.data, places[1], logits.nbytes, TO_HOST)
        return logits

    def _place(self, name: str, array: Array) -> int:
        """Address on the device of a tensor like `array`, which the engine knows by then."""
        key = name, array.nbytes
        if key not in self._held:
            self._held[key] = self._cuda.allocate(array.nbytes)
        self._context.set_tensor_address(name, self._held[key])
        return self._held[key]


def outputs_of(engine: TrtEngine, images: Array) -> Array:
    """(n, classes) of images (n, C, H, W), whatever batch the engine takes."""
    wanted, batch = len(images), engine.batch
    if not wanted:
        sys.exit("the file holds no images; give at least one")
    full = images[np.arange(math.ceil(wanted / batch) * batch) % wanted]
    chunks = [engine(full[i : i + batch]) for i in range(0, len(full), batch)]
    return np.concatenate(chunks)[:wanted]


def run_engine(arguments: list[str]) -> None:
    """Runs an engine over a file of images, and writes its outputs."""
    if len(arguments) != 3:
        sys.exit(__doc__)
    engine, images = TrtEngine(arguments[0]), np.load(arguments[1], allow_pickle=False)
    np.save(arguments[2], outputs_of(engine, images))


if __name__ == "__main__":
    run_engine(sys.argv[1:])
