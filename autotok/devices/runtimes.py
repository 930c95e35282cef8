"""What runs a model on this machine: torch, torch.compile, or what runs exported files."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.errors import AutotokError, failure
from autotok.export.formats import FORMATS, ExportFormat
from autotok.export.graph_chain import FileChain, OneByOne, open_file
from autotok.export.running import running
from autotok.names import known

from .footprint import BARE, file_footprint
from .measure import measure
from .measurement import Measurement, MeasurementFailed
from .reference_files import ReferenceFiles, export_for_timing

_LOG = logging.getLogger(__name__)
_TORCH_TOO = "torch and its copy of the model included"


def measure_in(
    runtime: str,
    model: nn.Module,
    images: Tensor,
    reference: nn.Module | None,
    *,
    references: ReferenceFiles | None = None,
) -> Measurement:
    """Latency and peak memory of `model(images)` in a runtime, the reference in the same.

    Where the runtime runs files, the reference's is kept in `references`, or taken from there.

    Raises:
        UnknownName: there is no such runtime.
        MeasurementFailed: the runtime refuses the model.
    """
    check_runtime(runtime)
    number_format = number_format_of(model)
    if number_format != "float32" and runtime in ("eager", "compile"):
        raise MeasurementFailed(
            f"number format {number_format} runs from an exported file only, not in torch; measure"
            " it with --runtime onnxruntime or openvino",
            kind="load",
        )
    prepare = _runtimes(references)[runtime]
    models = [model] if reference is None else [model, reference]
    with prepare(models, images) as found:
        run, *others = found.models
        there = images.to(found.device or images.device)
        result = measure(run, there, reference=others[0] if others else None)
        result = found.with_memory(result)
    dtype = str(next(model.parameters(), images).dtype).removeprefix("torch.")
    dtype = dtype if number_format == "float32" else number_format
    return dataclasses.replace(result, runtime=found.name, dtype=dtype)


def measure_file(
    path: Path, format: str, precision: str, images: Tensor, reference: Backbone
) -> Measurement:
    """Latency of an exported file beside the float32 export of `reference` in the same runtime,
    which sees as many images, of its own size.

    Where the model stops early, the latency is that of one image, the mean over all of `images`.

    Args:
        path: `ExportResult.path` of `format` and `precision`, for the batch of `images`.
        images: One batch, normalised, on the CPU; any number for a model that stops early.
        reference: Usually the uncompressed model.

    Raises:
        ExportError: the runtime does not run the file.
    """
    chosen = FORMATS.get(format)
    with running(chosen):
        opened = open_file(path, chosen)
    singly = isinstance(opened, FileChain)
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(len(images), *reference.facts.image_shape, generator=generator)
    with _exported(chosen, None, [reference], own[:1] if singly else own) as beside:
        other = OneByOne(beside.models[0]) if singly else beside.models[0]
        with running(chosen):
            found = measure(opened, images, reference=_OnOwnImages(other, own))
    alone = None if singly else _memory_of(path, chosen, images)
    found = _Prepared([opened], "", also=_TORCH_TOO, memory=alone).with_memory(found)
    found = found.per_image() if singly else found
    return dataclasses.replace(found, runtime=chosen.version(opened), dtype=precision)


class _OnOwnImages(nn.Module):
    """A model that runs on the same images whatever it is given."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model, self.images = model, images

    def forward(self, _: Tensor) -> Tensor:
        out: Tensor = self.model(self.images)
        return out


def number_format_of(model: nn.Module) -> str:
    """Of the file that a model is shipped as."""
    return str(getattr(getattr(model, "config", None), "number_format", "float32"))


def check_runtime(name: str) -> None:
    """Raise unless a runtime is known and the packages that it needs work here.

    Raises:
        UnknownName: there is no such runtime.
        ExportError: a package is missing or broken.
    """
    known("runtime", name, _runtimes())
    for format in FORMATS:
        if format.runtime == name:
            format.check()


@dataclass(frozen=True)
class _Prepared:
    """Models as a runtime runs them."""

    models: list[nn.Module]
    name: str
    device: torch.device | None = None
    """Where they run; None where the models are."""
    also: str = ""
    """What else this process's memory holds."""
    memory: Callable[[], tuple[float, str]] | None = None
    """MB of a process of the first one's own, and what was read."""

    def with_memory(self, found: Measurement) -> Measurement:
        """The reading, its memory that of the model alone if that can be had."""
        if self.memory is not None:
            try:
                peak, how = self.memory()
            except AutotokError as error:
                _LOG.info("%s", error)
            else:
                return dataclasses.replace(found, peak_memory_mb=peak, memory_source=how)
        if not self.also:
            return found
        how = f"{found.memory_source}, {self.also}"
        return dataclasses.replace(found, memory_source=how, memory_alone=False)


def _memory_of(
    path: Path, format: ExportFormat, images: Tensor
) -> Callable[[], tuple[float, str]] | None:
    """What reads the memory of a process that runs a file alone; None where none does."""
    if format.runtime not in BARE or images.device.type != "cpu":
        return None
    threads, shape = torch.get_num_threads(), tuple(images.shape)
    return partial(file_footprint, path, format.runtime, shape, threads=threads)


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
        graphs, also = (", CUDA graphs", "") if how else ("", "the compiler included")
        yield _Prepared(ready, f"torch {torch.__version__} compile{graphs}", also=also)
    finally:
        torch.compiler.reset()


@contextlib.contextmanager
def _exported(
    format: ExportFormat,
    references: ReferenceFiles | None,
    models: list[nn.Module],
    images: Tensor,
) -> Iterator[_Prepared]:
    """All but the first are references. A GPU's name, energy and memory are not those of a file
    that a runtime without one runs, wherever the images were."""
    with tempfile.TemporaryDirectory(prefix="autotok-export-") as folder:
        opened: list[nn.Module] = []
        for index, model in enumerate(models):
            path = Path(folder) / f"{index}{format.suffix}"
            try:
                if index and references is not None:
                    path = references.file(model, images, format)
                else:
                    export_for_timing(model, path, images, format.name)
                opened.append(format.open(path, images.device))
            except AutotokError:
                raise
            except Exception as error:  # a runtime's own types are private
                raise _refusal(str(format.runtime), error) from error
        device = format.runs_on(opened[0])
        memory = _memory_of(Path(folder) / f"0{format.suffix}", format, images.to(device))
        yield _Prepared(opened, format.version(opened[0]), device, _TORCH_TOO, memory)


Prepare = Callable[[list[nn.Module], Tensor], contextlib.AbstractContextManager[_Prepared]]


def _runtimes(references: ReferenceFiles | None = None) -> dict[str, Prepare]:
    """torch's own, then those of the export formats."""
    exported = {
        f.runtime: partial(_exported, f, references) for f in FORMATS if f.runtime is not None
    }
    return {"eager": _eager, "compile": _compiled, **exported}


def _refusal(runtime: str, error: Exception) -> MeasurementFailed:
    return MeasurementFailed(
        f"{runtime} cannot run this model here ({failure(error)[:230]}); measure it with another"
        " --runtime",
        kind="load",
    )
