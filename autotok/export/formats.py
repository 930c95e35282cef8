"""`ExportFormat`: what a file format registers, and the registry that everything else asks.

A format is one file: a sub-class of `ExportFormat` under `register_format("name")`. The command
line's choices, what is checked before a search, bundles, runtimes and boards follow from it.
Installed packages add theirs through the entry-point group `autotok.formats`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autotok.config import NUMBERS
from autotok.errors import ExportError
from autotok.names import known
from autotok.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .graph_parts import GraphPart
    from .infer import PartRunner

INPUT = "images"
"""What graphs call the images that they take."""


@dataclass(frozen=True)
class Written:
    """What a format says of a file that it wrote."""

    exporter: str
    operators: dict[str, int]
    """How often each occurs, most frequent first."""
    kept_float: tuple[str, ...] = ()
    """Layers that an int8 file leaves in float32, by name."""
    notes: tuple[str, ...] = ()


class ExportFormat:
    """One file format; `write`, `open` and `version` are to be filled in."""

    name = ""
    """Set by `register_format`."""
    suffix = ""
    """Of its files, with the dot."""
    open_batch = True
    """Whether `write` may leave the batch open; else a fixed one is written, and a note says so."""
    opset: int | None = None
    """Version of its operators, where it has one."""
    opsets: tuple[int, int] | None = None
    """Lowest and highest that it can be written in, where it has a version."""
    precisions: tuple[str, ...] = ("float32",)
    """Number formats that its files come in; `lower` makes the others."""
    stand_in = ""
    """An exporter that steps in where the usual one fails; its files are never taken on trust."""
    runtime: str | None = None
    """What its files are timed as on this machine: a choice of --runtime; None is not at all."""
    board_runtimes: tuple[str, ...] = ()
    """Those of `devices/board.py` that run its files."""
    takes_parts = False
    """Whether `write_part` and `open_part` are filled in, for models that stop early."""

    def check(self) -> None:
        """Raise `ExportError` unless the packages that write and run its files work here."""

    def takes(self, operator: str) -> bool:
        """Whether the runtimes of its files commonly run an operator."""
        return True

    def engines(self, operators: Iterable[str]) -> dict[str, str]:
        """What engines elsewhere make of a file with these operators, by name; see `engines.py`."""
        return {}

    def at_opset(self, opset: int) -> ExportFormat:
        """The format written in another version of its operators.

        Raises:
            ExportError: it has none, or cannot be written in that one.
        """
        if self.opsets is None:
            raise ExportError(f"{self.name} files have no operator set; leave --opset out")
        low, high = self.opsets
        if not low <= opset <= high:
            raise ExportError(
                f"operator set {opset} cannot be written to {self.name} files; give --opset"
                f" {low} to {high}"
            )
        chosen = copy.copy(self)
        chosen.opset = opset
        return chosen

    def lower(self, path: Path, precision: str, images: Tensor, *, batch: int) -> Written:
        """What became of the float32 file at `path`, now in another of its `precisions`.

        Args:
            images: (n, C, H, W) normalised, to calibrate int8 on.
            batch: Images per run of the file.

        Raises:
            ExportError: it cannot be had; see `not_exported`.
        """
        raise NotImplementedError

    def write(
        self, model: nn.Module, images: Tensor, path: Path, *, dynamic_batch: bool
    ) -> Written:
        """What was written to `path`; `images` (B, C, H, W) are the example, on the CPU.

        Raises:
            ExportError: the model cannot be written; see `not_exported`.
        """
        raise NotImplementedError

    def open(self, path: Path, device: torch.device) -> nn.Module:
        """A file ready to run: images (B, C, H, W) to logits (B, classes), which may be on the
        host; where the runtime has no such device, on the CPU."""
        raise NotImplementedError

    def runs_on(self, opened: nn.Module) -> torch.device:
        """Where what `open` gave runs: where its tensors are, and without any on the CPU."""
        import torch

        first = next((t for group in (opened.parameters(), opened.buffers()) for t in group), None)
        return torch.device("cpu") if first is None else first.device

    def write_part(self, part: GraphPart, example: tuple[Tensor, ...], path: Path) -> Written:
        """What was written to `path`: one of the graphs of a model that stops early; `example` is
        what it takes, of one image.

        Raises:
            ExportError: it cannot be written; see `not_exported`.
        """
        raise NotImplementedError

    def open_part(self, path: Path) -> PartRunner:
        """A part ready to run on the CPU: arrays that it takes to arrays that it gives, each in
        the order of the graph."""
        raise NotImplementedError

    def version(self, opened: nn.Module | None = None) -> str:
        """What runs its files, in words, with the part of it that runs an opened one."""
        raise NotImplementedError

    def usage(self, file: str) -> tuple[str, ...]:
        """Lines of a bundle's README on how to run its file where autotok is not installed."""
        return ()

    def run(self, path: Path, images: Tensor, batch: int) -> Tensor:
        """Logits (n, classes) of images (n, C, H, W), `batch` at a time on the CPU."""
        import torch

        opened = self.open(path, torch.device("cpu"))
        with torch.no_grad():
            return torch.cat([opened(chunk) for chunk in images.split(batch)])


_OWN = ("onnx", "openvino", "pt2", "executorch", "torchscript", "tensorrt")
_E = TypeVar("_E", bound=type[ExportFormat])
FORMATS: Registry[ExportFormat] = Registry(
    "export format",
    group="autotok.formats",
    own={name: f"autotok.export.{name}" for name in _OWN},
)


def register_format(name: str) -> Callable[[_E], _E]:
    """Class decorator: make an `ExportFormat` known."""

    def add(cls: _E) -> _E:
        cls.name = name
        FORMATS.add(name, cls())
        return cls

    return add


def list_formats() -> tuple[str, ...]:
    """Names of autotok's own formats; nothing is imported for them."""
    return FORMATS.own


def check_format(
    name: str,
    *,
    precision: str = "float32",
    opset: int | None = None,
    output: str | Path | None = None,
) -> None:
    """Raise unless a format is known, comes in that number format and operator set, the packages
    that write and run it work here, and its files may be called as `output` is.

    Raises:
        UnknownName: no such format.
        ExportError: not in that number format or operator set, or under another name; a package is
            missing or broken.
    """
    found = chosen_format(name, precision=precision, opset=opset)
    if output is not None:
        check_suffix(output, found)
    found.check()


def check_suffix(path: str | Path, format: ExportFormat) -> None:
    """Raise `ExportError` where a file is called as no file of its format is: what runs it goes by
    the name, and others would take it for another format's."""
    if format.suffix in ("", Path(path).suffix):
        return
    others = [f.name for f in FORMATS if Path(path).suffix == f.suffix]
    instead = f", or choose --format {' or '.join(others)}" if others else ""
    raise ExportError(
        f"'{path}' is no name of a file in the format {format.name}; give one that ends in"
        f" {format.suffix}{instead}"
    )


def chosen_format(name: str, *, precision: str, opset: int | None = None) -> ExportFormat:
    """The format of that name, in a number format and operator set that it has.

    Raises:
        UnknownName, ExportError: see `check_format`.
    """
    found = FORMATS.get(name)
    known("precision", precision, NUMBERS)
    if precision not in found.precisions:
        able = [f.name for f in FORMATS if precision in f.precisions]
        raise ExportError(
            f"{name} files come in {' or '.join(found.precisions)} here, not in {precision}; try"
            f" --format {', '.join(able)}"
        )
    return found if opset is None else found.at_opset(opset)


def not_exported(name: str, reason: str) -> ExportError:
    """The error of a format that cannot hold a model."""
    others = ", ".join(other for other in FORMATS.names() if other != name)
    return ExportError(f"the model cannot be exported to {name}: {reason}; try --format {others}")


@contextlib.contextmanager
def without_stack_traces() -> Iterator[None]:
    """torch writes down no stack with each operator while it traces a model for export.

    It takes time for every frame of the caller's, and puts this machine's paths into the file.
    """
    from torch.fx import config

    flag = "do_not_emit_stack_traces"  # lacking in older versions, which then record them
    before = getattr(config, flag, False)
    setattr(config, flag, True)
    try:
        yield
    finally:
        setattr(config, flag, before)
