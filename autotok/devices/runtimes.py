"""What runs a model on this machine: torch as it is, torch.compile, or ONNX Runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.errors import AutotokError, UnknownName
from autotok.export.exported import export_model

from .measure import measure
from .measurement import Measurement, MeasurementFailed

__all__ = ["RUNTIMES", "check_runtime", "measure_in"]


def measure_in(
    runtime: str, model: nn.Module, images: Tensor, reference: nn.Module | None
) -> Measurement:
    """Latency and peak memory of `model(images)` in a runtime, the reference in the same.

    Raises:
        UnknownName: there is no such runtime.
        MeasurementFailed: the runtime refuses the model.
    """
    check_runtime(runtime)
    models = [model] if reference is None else [model, reference]
    with _RUNTIMES[runtime](models, images) as found:
        run, *others = found.models
        result = measure(run, images, reference=others[0] if others else None)
    dtype = str(next(model.parameters(), images).dtype).removeprefix("torch.")
    how = result.memory_source + (f", {found.also}" if found.also else "")
    return dataclasses.replace(result, runtime=found.name, dtype=dtype, memory_source=how)


def check_runtime(name: str) -> None:
    """Raise `UnknownName` where there is no such runtime."""
    if name not in _RUNTIMES:
        raise UnknownName("runtime", name, _RUNTIMES)


@dataclass(frozen=True)
class _Prepared:
    """Models as a runtime runs them."""

    models: list[nn.Module]
    name: str
    also: str = ""
    """What else a process's memory holds."""


@contextlib.contextmanager
def _eager(models: list[nn.Module], images: Tensor) -> Iterator[_Prepared]:
    yield _Prepared(models, f"torch {torch.__version__} eager")


@contextlib.contextmanager
def _compiled(models: list[nn.Module], images: Tensor) -> Iterator[_Prepared]:
    """CUDA graphs where there is CUDA. What earlier models left is forgotten first: torch keeps a
    few versions of one forward and would then run further models eagerly, in silence."""
    torch.compiler.reset()
    how = "reduce-overhead" if images.device.type == "cuda" else None
    ready: list[nn.Module] = [torch.compile(m, dynamic=False, mode=how) for m in models]  # type: ignore[misc]
    try:
        with torch.inference_mode():
            for module in ready:
                module(images)
    except Exception as error:  # the compiler raises many types, some of them private
        raise _refusal("torch.compile", error) from error
    try:
        graphs = ", CUDA graphs" if how else ""
        yield _Prepared(
            ready, f"torch {torch.__version__} compile{graphs}", "the compiler included"
        )
    finally:
        torch.compiler.reset()


@contextlib.contextmanager
def _onnx(models: list[nn.Module], images: Tensor) -> Iterator[_Prepared]:
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="autotok-export-") as folder:
        sessions: list[nn.Module] = []
        for index, model in enumerate(models):
            path = Path(folder) / f"{index}.onnx"
            try:
                export_model(model, path, images, batch=len(images), strict=False)
                sessions.append(_OnnxSession(path, images.device))
            except AutotokError:
                raise
            except Exception as error:  # onnxruntime's own types are private
                raise _refusal("ONNX Runtime", error) from error
        provider = sessions[0].provider
        name = f"onnxruntime {onnxruntime.__version__} {provider}"
        yield _Prepared(sessions, name, "torch and its copy of the model included")


_RUNTIMES: dict[
    str, Callable[[list[nn.Module], Tensor], contextlib.AbstractContextManager[_Prepared]]
] = {"eager": _eager, "compile": _compiled, "onnxruntime": _onnx}
RUNTIMES = tuple(_RUNTIMES)


class _OnnxSession(nn.Module):
    """An ONNX file in onnxruntime, with as many threads as torch has."""

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        able = onnxruntime.get_available_providers()
        providers = [name for name in (*wanted, "CPUExecutionProvider") if name in able]
        self._session: Any = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=providers
        )
        self._input = self._session.get_inputs()[0].name
        self.provider = str(self._session.get_providers()[0])

    def forward(self, images: Tensor) -> Tensor:
        """(batch, classes), on the host."""
        found = self._session.run(None, {self._input: images.float().cpu().numpy()})
        return torch.from_numpy(found[0])


def _refusal(runtime: str, error: Exception) -> MeasurementFailed:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return MeasurementFailed(
        f"{runtime} cannot run this model here ({type(error).__name__}: {lines[0][:200]}); measure"
        " it with another --runtime",
        kind="load",
    )
