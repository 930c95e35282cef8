"""Devices to measure on: this machine, a board over ssh, a node of a Ray cluster."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT
from autotok.errors import AutotokError
from autotok.export.formats import FORMATS, ExportFormat

from .board import MB, installed_mb, usable_cores
from .footprint import SOURCE, footprint_of
from .measurement import Measurement, MeasurementFailed
from .placing import RAY, check_measure_on, torch_device
from .reference_files import ReferenceFiles, export_for_timing
from .runtimes import check_runtime, measure_in, number_format_of
from .ssh_board import RemoteDevice

if TYPE_CHECKING:
    from .ray_tasks import RayTasks

_LOG = logging.getLogger(__name__)
ROUNDS, TIMEOUT_S = 15, 300.0
_FAREWELL_S = 120.0


class Device(Protocol):
    """Something that measures; `close` when done."""

    name: str

    def check(self) -> str:
        """What it is, in a line.

        Raises:
            DeviceUnreachable: it does not answer.
        """
        ...

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        """Latency and peak memory of `model(images)`, interleaved with the reference's.

        Raises:
            DeviceUnreachable: it does not answer.
            AutotokError: this model cannot be measured there; the message says why.
        """
        ...

    def settle(self) -> str:
        """The runtime it prefers, the only one it measures in from now on."""
        ...

    def memory_mb(self) -> float | None:
        """Installed; None where it does not say."""
        ...

    def close(self) -> None:
        """Leave it as it was."""
        ...


def open_device(text: str, *, ray_address: str | None = None) -> Device:
    """The device of a name: 'local', 'local?runtime=compile', 'ssh://user@host[:port]' or
    'ray:RESOURCE[@HOST:PORT]'.

    Nothing is connected to yet; `check` does that.

    Raises:
        UsageError: it is no such name.
    """
    check_measure_on(text)
    if text.startswith("ssh:"):
        return SshDevice(text)
    match = RAY.fullmatch(text)
    if match is not None:
        return RayDevice(match[1], match[2] or ray_address)
    return LocalDevice(text.partition("?runtime=")[2] or "eager")


def ready_device(text: str | None, *, ray_address: str | None = None) -> Device | None:
    """The device of a name, seen to answer; None where none is named.

    Raises:
        DeviceUnreachable: it does not answer.
        UsageError: it is no device, or one that cannot measure.
    """
    if text in (None, "none"):
        return None
    device = open_device(str(text), ray_address=ray_address)
    with leaving(device):
        _LOG.info("device %s: %s", device.name, device.check())
    return device


@contextlib.contextmanager
def leaving(device: Device | None) -> Iterator[None]:
    """Closes the device when the block ends, well or not."""
    try:
        yield
    finally:
        if device is not None:
            device.close()


class LocalDevice:
    """This process, and the device its models are on."""

    def __init__(self, runtime: str = "eager") -> None:
        """`runtime` is torch's 'eager' or 'compile', or that of an export format."""
        check_runtime(runtime)
        self.name = "local" if runtime == "eager" else f"local?runtime={runtime}"
        self._runtime = runtime
        self._references = ReferenceFiles()

    def check(self) -> str:
        return f"this machine, {self._runtime}"

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        return measure_here(
            model, images, reference, runtime=self._runtime, references=self._references
        )

    def settle(self) -> str:
        return self._runtime

    def memory_mb(self) -> float | None:
        return installed_mb()

    def close(self) -> None:
        """Remove the files of uncompressed models."""
        self._references.close()


class SshDevice:
    """A board over ssh: models are exported here and measured there."""

    def __init__(self, text: str) -> None:
        self._remote = RemoteDevice(text)
        self.name = str(self._remote.address)
        self._runtime: str | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._references = ReferenceFiles()

    def check(self) -> str:
        """What the board says of itself."""
        facts = self._remote.hello()
        runtimes = ", ".join(f"{k} {v.get('version', '')}" for k, v in facts.runtimes.items())
        memory = "" if facts.memory_mb is None else f", {facts.memory_mb / 1e3:.1f} GB"
        return f"{facts.device}, {facts.cores} cores{memory}, Python {facts.python}, {runtimes}"

    def memory_mb(self) -> float | None:
        return self._remote.hello().memory_mb

    def settle(self) -> str:
        self._runtime = self._remote.runtimes[0]
        self._remote.energy = False  # which takes a second or more of every model
        return self._runtime

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        """Measured in the first of its runtimes that takes the model's number format and loads it.

        Raises:
            MeasurementFailed: none of them does, or it failed there.
            DeviceUnreachable: it does not answer.
        """
        there = self._remote.runtimes if self._runtime is None else (self._runtime,)
        wanted = number_format_of(model)
        runtimes = [name for name in there if wanted in _format_of(name).precisions]
        if not runtimes:
            able = dict.fromkeys(
                name for f in FORMATS if wanted in f.precisions for name in f.board_runtimes
            )
            raise MeasurementFailed(
                f"device '{self.name}' measures in {' or '.join(there)}, whose files are not"
                f" written in {wanted}; install {' or '.join(able)} there, or measure in float32",
                kind="load",
            )
        for index, runtime in enumerate(runtimes):
            try:
                return self._measure(model, images, reference, runtime)
            except MeasurementFailed as error:
                if error.kind != "load" or index == len(runtimes) - 1:
                    raise
        raise AssertionError("a device has at least one runtime")

    def _measure(
        self, model: nn.Module, images: Tensor, reference: nn.Module | None, runtime: str
    ) -> Measurement:
        format = _format_of(runtime)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="autotok-export-")
        folder = Path(self._folder.name)
        path = folder / f"model{format.suffix}"
        beside = None
        if reference is not None:
            beside = self._references.file(reference, images, format)
        export_for_timing(model, path, images, format.name)
        return self._remote.measure(
            path,
            tuple(images.shape),
            runtime=runtime,
            reference=beside,
            rounds=ROUNDS,
            timeout_s=TIMEOUT_S,
            number_format=number_format_of(model),
        )

    def close(self) -> None:
        """The board removes its folder, and so do we."""
        self._remote.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None
        self._references.close()


def _format_of(runtime: str) -> ExportFormat:
    """The first whose files a board's runtime takes."""
    return next(format for format in FORMATS if runtime in format.board_runtimes)


class RayDevice:
    """A node of a Ray cluster that carries a resource; measured there in torch, in a process of its
    own, on a GPU of the node where it has one. autotok must be installed on it, as for every node
    that works in a search."""

    def __init__(self, resource: str, address: str | None) -> None:
        self.name = f"ray:{resource}"
        self._resource, self._address = resource, address
        self._tasks: RayTasks | None = None

    def check(self) -> str:
        return f"{', '.join(self._ready().nodes())} of the Ray cluster"

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        from .ray_tasks import TaskLost

        tasks = self._ready()
        limit_s = TIMEOUT_S + _FAREWELL_S
        try:
            sent = _on_the_cpu(model, reference)
            found = tasks.run(_measure_there, *sent, images.cpu(), limit_s=limit_s, gpu=True)
        except TimeoutError as error:
            raise MeasurementFailed(
                f"device '{self.name}' had not measured this model after {limit_s:.0f} s; see what"
                " else runs on its node",
                kind="timeout",
            ) from error
        except (TaskLost, MemoryError) as error:
            memory = isinstance(error, MemoryError) or error.memory
            why = "ran out of memory with this model" if memory else f"lost the process ({error})"
            raise MeasurementFailed(
                f"device '{self.name}' {why}; compress more, or end what else runs there",
                kind="memory" if memory else "crash",
            ) from error
        assert isinstance(found, Measurement)
        return dataclasses.replace(found, device=f"{self.name} ({found.device})")

    def settle(self) -> str:
        return "eager"

    def memory_mb(self) -> float | None:
        """Installed on its node; None where that does not say."""
        from .ray_tasks import TaskLost

        try:
            found = self._ready().run(installed_mb, limit_s=TIMEOUT_S)
        except (TaskLost, TimeoutError):
            return None
        return found if found is None else float(found)

    def _ready(self) -> RayTasks:
        if self._tasks is None:
            from .ray_tasks import RayTasks

            self._tasks = RayTasks(self._resource, self._address)
        return self._tasks

    def close(self) -> None:
        """Leave the cluster if this joined it."""
        if self._tasks is not None:
            self._tasks.close()
        self._tasks = None


def measure_on(device: Device, model: CompressedViT | Backbone, *, batch: int = 1) -> Measurement:
    """One model on a device with random images, beside its uncompressed backbone.

    They have the backbone's own size: a model that runs on another resizes them, which is timed.
    """
    reference = model.original.whole if isinstance(model, CompressedViT) else None
    facts = (model.backbone if isinstance(model, CompressedViT) else model).own_facts
    images = torch.randn(batch, *facts.image_shape, generator=torch.Generator().manual_seed(0))
    return device.measure(model, images, reference)


def measure_here(
    model: nn.Module,
    images: Tensor,
    reference: nn.Module | None,
    *,
    runtime: str = "eager",
    references: ReferenceFiles | None = None,
) -> Measurement:
    """A measurement in this process; `references` keeps the reference's file for the next one."""
    parameter = next(model.parameters())
    ready = images.to(parameter.device, parameter.dtype)
    found = measure_in(runtime, model, ready, reference, references=references)
    if runtime != "eager":
        return found
    if ready.device.type == "cuda":
        return _without_others(found, model, ready)
    return _with_own_memory(found, model, ready)


def _without_others(found: Measurement, model: nn.Module, images: Tensor) -> Measurement:
    """The reading of a GPU without what this process holds there beside the model and its images.

    The allocator's peak counts a teacher, or a data set that was put there, as well.
    """
    tensors = [*model.parameters(), *model.buffers(), images]
    own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    others = max(0, torch.cuda.memory_allocated(images.device) - sum(own.values())) / MB
    how = f"{found.memory_source}, without what else is there"
    peak = found.peak_memory_mb - others
    return dataclasses.replace(found, peak_memory_mb=peak, memory_source=how)


def _with_own_memory(found: Measurement, model: nn.Module, images: Tensor) -> Measurement:
    """The reading with the memory of a process that runs this model and nothing else.

    This one's high-water mark knows of all that it ever held.
    """
    if images.device.type == "cpu":
        try:
            alone = footprint_of(model, images, threads=torch.get_num_threads())
        except AutotokError as error:
            _LOG.info("%s", error)
        else:
            return dataclasses.replace(found, peak_memory_mb=alone, memory_source=SOURCE)
    also = f"{found.memory_source}, with all else that this process holds"
    return dataclasses.replace(found, memory_source=also, memory_alone=False)


def _on_the_cpu(
    model: nn.Module, reference: nn.Module | None
) -> tuple[nn.Module, nn.Module | None]:
    """Both where any node can take them: themselves, or copies of what is on a GPU here."""
    if next(model.parameters()).device.type == "cpu":
        return model, reference
    model, reference = copy.deepcopy((model, reference))  # at once: they share weights
    return model.cpu(), None if reference is None else reference.cpu()


def _measure_there(model: nn.Module, reference: nn.Module | None, images: Tensor) -> Measurement:
    """The same on a node's GPU, or on all its cores: Ray gives a task as many threads as it asked
    for CPUs."""
    torch.set_num_threads(usable_cores())
    for module in (model, reference):
        if module is not None:
            module.to(torch_device())
    return measure_here(model, images, reference)
