"""`export_model`: one compressed model to one file, checked against torch on real images."""

from __future__ import annotations

import copy
import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotok.backbones.base import Backbone, repeated
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import is_adaptive
from autotok.errors import ExportError
from autotok.files import replacing
from autotok.methods.base import Count
from autotok.methods.registry import get_method
from autotok.methods.two_pass import TwoPass
from autotok.names import known
from autotok.plain_data import plain_fields

from .formats import FORMATS, ExportFormat, Written, chosen_format
from .graph_chain import check_chain, description_of, write_chain
from .graph_parts import has_parts
from .running import TOLERANCE, check_any_batch, quiet, running

logger = logging.getLogger(__name__)
_MOVES = 8


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how it compares with torch."""

    path: str
    format: str
    exporter: str
    """What wrote it: 'dynamo' or 'torchscript' for ONNX, 'torch.export', 'torch.jit.trace' ..."""
    runtime: str
    """What ran the file for the check."""
    batch: int | str
    """Fixed number of images, or 'dynamic'."""
    input_shape: tuple[int, ...]
    size_mb: float
    max_abs_diff: float
    """Largest difference of any output from torch's, over all images."""
    max_rel_diff: float
    """The same, over the largest output."""
    same_argmax: bool
    """The first choice agrees on every image."""
    num_images: int
    """Those given; what only fills up a last batch does not count."""
    ok: bool
    """float32: the same first choice and within `TOLERANCE`. Other number formats: finite; what
    they cost in quality is to be judged on the file (`agreement_pct` is a first look)."""
    operators: dict[str, int]
    own_sensitivity: float | None = None
    """Largest difference of torch from itself when the input moves by a millionth; only where the
    file disagrees. As large as `max_abs_diff`, it means that which tokens go hangs on rounding."""
    risky_operators: tuple[str, ...] = ()
    opset: int | None = None
    precision: str = "float32"
    """Number format of the file."""
    agreement_pct: float = 100.0
    """Images on which the first choice agrees."""
    kept_float: tuple[str, ...] = ()
    """Layers that an int8 file leaves in float32."""
    engines: dict[str, str] = field(default_factory=dict)
    """What engines elsewhere make of its operators, by their own lists; see `engines.yaml`."""
    notes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """The files of a model that stops early, in their order; `path` is then the JSON file beside
    them that says what each takes and gives, and when an image stops."""
    stopped: tuple[int, ...] = ()
    """Images of the check that each part answered."""
    same_stop_pct: float = 100.0
    """Images that the files and torch stop behind the same part."""
    checked_on: str = "images"
    """What the images are: 'images', or 'random images'."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data; of a single file without what is about several."""
        without = () if self.parts else ("parts", "stopped", "same_stop_pct")
        return {key: value for key, value in plain_fields(self).items() if key not in without}


def check_exportable(method: str, format: str = "onnx", *, fixed: bool = False) -> None:
    """Raise before any work where a method or format cannot be exported; `fixed` says that options
    give every image the same number of rows. What runs in two passes is two graphs.

    Raises:
        UnknownName: no such format.
        ExportError: the method declares that it cannot be exported.
    """
    known("export format", format, FORMATS.names())
    declared = get_method(method)
    able = declared.exportable or issubclass(declared, TwoPass)
    if not able and not (fixed and declared.count is Count.ADAPTIVE):
        hint = "autotok methods says which can"
        raise ExportError(f"method '{method}' cannot be exported to a static graph; {hint}")


def export_model(
    model: nn.Module,
    path: Path,
    images: Tensor,
    *,
    format: str = "onnx",
    batch: int = 1,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    calibration: Tensor | None = None,
    strict: bool = True,
    checked_on: str = "images",
) -> ExportResult:
    """The result of writing `model` to `path` and running the file on `images`.

    Args:
        model: A `CompressedViT` or backbone; it is copied to the CPU in float32, never changed.
        images: (n, C, H, W) normalised, preferably real; every image takes part in the check. The
            file takes images of their size, and resizes them itself where the model does.
        format: A registered name: 'onnx', 'openvino', 'pt2', 'executorch', 'torchscript',
            'tensorrt' or a plug-in's.
        batch: Images per run of the file.
        dynamic_batch: Let the file take any batch; where the exporter cannot, a fixed one is
            written and a note says so.
        precision: 'float32', 'float16' or 'int8'; by default what the configuration says.
        opset: Version of the operators, where the format has one; by default its own.
        calibration: (m, C, H, W) normalised, what int8 is calibrated on; by default `images`.
        strict: Raise where the file disagrees with torch; else the result's `ok` says it, unless
            the older ONNX exporter wrote it, which may leave something out in silence.
        checked_on: What `images` are, for the result.

    Raises:
        ExportError: the method is not exportable, the exporter failed, or the file disagrees.
    """
    config = getattr(model, "config", None)
    fixed = config is not None and not is_adaptive(config)
    check_exportable("none" if config is None else config.method, format, fixed=fixed)
    if len(images) == 0 or batch < 1:
        raise ExportError("exporting needs a batch of at least 1 and at least 1 image to check on")
    precision = precision or ("float32" if config is None else config.number_format)
    chosen = chosen_format(format, precision=precision, opset=opset)
    plain = copy.deepcopy(model).cpu().float().eval()
    backbone = getattr(plain, "backbone", plain)
    if isinstance(backbone, Backbone):
        backbone.settle()
    images = images.detach().cpu().float()
    if isinstance(plain, CompressedViT) and has_parts(plain):
        check_chain(chosen, batch=batch, dynamic_batch=dynamic_batch, precision=precision)
        path = description_of(path)
    with replacing(path) as temporary, quiet(), torch.no_grad():
        if isinstance(plain, CompressedViT) and has_parts(plain):
            result, expected = _several(chosen, plain, images, temporary)
        else:
            shown = _full_batches(images if calibration is None else calibration, batch)
            asked = _Asked(images, batch, dynamic_batch, precision, shown)
            result, expected = _single(chosen, plain, asked, temporary)
        size_mb = sum(file.stat().st_size for file in temporary.parent.iterdir()) / 1e6
        shape, size_mb = (batch, *images.shape[1:]), round(size_mb, 3)
        result = dataclasses.replace(result, path=str(path), input_shape=shape, size_mb=size_mb)
        result = dataclasses.replace(result, checked_on=checked_on)
        result = _with_sensitivity(result, plain, images, batch, expected)
        _judge(result, strict)
    return result


@dataclass(frozen=True)
class _Asked:
    """What a file shall be."""

    images: Tensor
    batch: int
    dynamic_batch: bool
    precision: str
    calibration: Tensor


def _single(
    format: ExportFormat, model: nn.Module, asked: _Asked, path: Path
) -> tuple[ExportResult, Tensor]:
    """(the result of one file for all of a model, torch's outputs)."""
    images, batch = _full_batches(asked.images, asked.batch), asked.batch
    dynamic_batch, number = asked.dynamic_batch, len(asked.images)
    example = images[: max(batch, 2 if dynamic_batch else 1)]
    if len(example) < 2 and dynamic_batch:
        example = torch.cat([example, example])
    written, dynamic, notes = _write(
        format, model, example, path, dynamic=dynamic_batch, batch=batch
    )
    expected = torch.cat([model(chunk) for chunk in images.split(batch)])[:number]
    if asked.precision != "float32":
        if written.exporter == format.stand_in:  # afterwards nothing tells its faults from rounding
            plain = _ran(format, path, asked, expected, written, "float32")
            _judge(_with_sensitivity(plain, model, images, batch, expected), strict=True)
        lowered = format.lower(path, asked.precision, asked.calibration, batch=batch)
        notes += (f"made of what '{written.exporter}' wrote", *written.notes)
        written = lowered
    result = _ran(format, path, asked, expected, written, asked.precision)
    notes, size = (*notes, *written.notes), "dynamic" if dynamic else batch
    return dataclasses.replace(result, notes=notes, batch=size), expected


def _ran(
    format: ExportFormat,
    path: Path,
    asked: _Asked,
    expected: Tensor,
    written: Written,
    precision: str,
) -> ExportResult:
    """The file run on all images and compared with torch."""
    with running(format):
        got = format.run(path, _full_batches(asked.images, asked.batch), asked.batch)
    got = got[: len(asked.images)]
    return _compared(format, expected, got, written, precision)


def _several(
    format: ExportFormat, model: CompressedViT, images: Tensor, path: Path
) -> tuple[ExportResult, Tensor]:
    """(the result of a file for each part of a model that stops early, torch's outputs)."""
    found = write_chain(format, model, images, path)
    both = (found.expected.flatten(0, 1), found.got.flatten(0, 1))
    result = _compared(format, *both, found.written, "float32")
    same = found.stopped == found.stopped_files
    result = dataclasses.replace(
        result,
        num_images=len(images),
        ok=result.ok and bool(same.all()),
        parts=found.files,
        stopped=tuple(torch.bincount(found.stopped, minlength=len(found.files)).tolist()),
        same_stop_pct=round(100.0 * float(same.float().mean()), 2),
    )
    return result, found.expected[found.stopped, torch.arange(len(images))]


def _full_batches(images: Tensor, batch: int) -> Tensor:
    """The images on the CPU, the first ones again at the end where a batch lacks some."""
    images = images.detach().cpu().float()
    return repeated(images, -(-len(images) // batch) * batch)


def _write(
    format: ExportFormat,
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: bool,
    batch: int,
) -> tuple[Written, bool, tuple[str, ...]]:
    """(the file just written, whether its batch is open, notes)."""
    if dynamic and format.open_batch:
        try:
            written = format.write(model, example, path, dynamic_batch=True)
            check_any_batch(format, model, path, example)
            return written, True, ()
        except ExportError as error:
            logger.warning("a dynamic batch failed, writing a fixed one: %s", error)
            path.unlink(missing_ok=True)
    notes = (f"a dynamic batch could not be exported; it is fixed at {batch}",) if dynamic else ()
    return format.write(model, example[:batch], path, dynamic_batch=False), False, notes


def _compared(
    format: ExportFormat, expected: Tensor, got: Tensor, written: Written, precision: str
) -> ExportResult:
    """The numerical comparison; what is about the file is filled in by the caller."""
    fits = expected.shape == got.shape and bool(torch.isfinite(got).all())
    diff = float((expected - got).abs().max()) if fits else float("inf")
    relative = diff / max(1e-6, float(expected.abs().max()))
    agreeing = (expected.argmax(dim=-1) == got.argmax(dim=-1)) if fits else torch.zeros(1)
    share = float(agreeing.float().mean())
    same = share == 1.0
    close = (same and relative <= TOLERANCE) if precision == "float32" else fits
    return ExportResult(
        path="",
        format=format.name,
        exporter=written.exporter,
        runtime=format.version(),
        batch=1,
        input_shape=(),
        size_mb=0.0,
        max_abs_diff=diff,
        max_rel_diff=relative,
        same_argmax=same,
        num_images=len(expected),
        ok=close,
        operators=written.operators,
        risky_operators=tuple(sorted(op for op in written.operators if not format.takes(op))),
        opset=format.opset,
        precision=precision,
        agreement_pct=round(100.0 * share, 2),
        kept_float=written.kept_float,
        engines=format.engines(written.operators),
    )


def _with_sensitivity(
    result: ExportResult, model: nn.Module, images: Tensor, batch: int, expected: Tensor
) -> ExportResult:
    """The result, and where the file disagrees how far torch is from itself."""
    if result.ok:
        return result
    own = own_sensitivity(model, images, batch, expected)
    return dataclasses.replace(result, own_sensitivity=own)


def own_sensitivity(model: nn.Module, images: Tensor, batch: int, expected: Tensor) -> float:
    """Largest difference from `expected` where images move by a millionth of their spread, which is
    about float32's rounding; of several moves, as which of them crosses an edge is luck."""
    generator, found = torch.Generator().manual_seed(0), 0.0
    images = _full_batches(images, batch)
    for _ in range(_MOVES):
        moved = images + torch.randn(images.shape, generator=generator) * 1e-6 * images.std()
        outputs = torch.cat([model(chunk) for chunk in moved.split(batch)])[: len(expected)]
        found = max(found, float((outputs - expected).abs().max()))
    return found


def _judge(result: ExportResult, strict: bool) -> None:
    if result.ok:
        return
    stand_in = result.exporter == FORMATS.get(result.format).stand_in
    by = f", written by '{result.exporter}' after the usual exporter failed," if stand_in else ""
    if stand_in and result.opset != FORMATS.get(result.format).opset:
        by = f", written by '{result.exporter}' for operator set {result.opset},"
    message = (
        f"the exported {result.format} file{by} disagrees with torch: largest difference"
        f" {result.max_abs_diff:.2g} ({result.max_rel_diff:.1e} of the largest output, allowed"
        f" {TOLERANCE:.0e}), first choice {'equal' if result.same_argmax else 'different'} over"
        f" {result.num_images} {result.checked_on}"
    )
    if result.same_stop_pct < 100.0:
        message += f", {100.0 - result.same_stop_pct:g} % of which stop behind another part"
    message += "; "
    own = result.own_sensitivity or 0.0
    if result.same_stop_pct < 100.0 and result.max_rel_diff <= TOLERANCE:
        message += "these images lie within rounding of a threshold: move it by a little"
    elif own > 0.25 * result.max_abs_diff:
        message += (
            f"but torch differs from itself by {own:.2g} when the input moves by a millionth: which"
            " tokens go hangs on rounding here, so judge the file by its accuracy, or choose a"
            " configuration that is less close to the edge"
        )
    else:
        message += "try another --format or report it"
    if strict or stand_in:
        raise ExportError(message)
    logger.warning("%s", message)
