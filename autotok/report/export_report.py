"""What `autotok export` says: the file, how it compares with torch, its quality and its speed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotok.backbones.base import Backbone, repeated
from autotok.compression.calibrate import calibrated
from autotok.compression.model import CompressedViT
from autotok.compression.telling import missing_thresholds
from autotok.counting.exit_costs import macs_by_stop
from autotok.devices.runtimes import measure_file
from autotok.errors import AutotokError, ConfigError, ExportError
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import DataSource, load_data
from autotok.export.exported import ExportResult, export_model
from autotok.export.file_model import FileModel
from autotok.export.formats import FORMATS, check_suffix
from autotok.export.graph_chain import open_file
from autotok.searching.running.counterpart import require_counterpart

CHECKED = 64
"""Images that a file is compared with torch on."""
CALIBRATED = 32
"""Images that int8 is calibrated on."""

TIMED = 16
"""Images that a model which stops early is timed on."""

RANDOM = "random images"


def export_report(
    model: CompressedViT,
    output: str | Path,
    *,
    format: str = "onnx",
    data: str | Path | None = None,
    class_names: str | Path | None = None,
    batch: int = 1,
    dynamic_batch: bool = False,
    precision: str | None = None,
    opset: int | None = None,
    measured: bool = False,
    judged: int = 0,
    uncompressed: Backbone | None = None,
) -> dict[str, Any]:
    """What was written and how it compares with torch; see `export_model`.

    Args:
        data: Images to check on, and for int8 to calibrate on; noise by default.
        class_names: File of the model's class names in order, for class folders that need one.
        measured: Time the file beside the float32 export of the uncompressed model.
        judged: Images of `data` that the quality of the file is measured on, beside torch's.
        uncompressed: What the quality of a fine-tuned model, or of one with adapters folded in, is
            measured against; of others their own backbone is.

    Raises:
        ConfigError: there is no uncompressed model to judge against, or it does not fit.
        ExportError: int8 without images to calibrate on, or `output` has another suffix than files
            of that format; see `export_model`.
    """
    output, precision = Path(output), precision or model.config.number_format
    check_suffix(output, FORMATS.get(format))
    if precision == "int8" and data is None:
        raise ExportError(
            "int8 is calibrated on images: give --data, such as a folder of a few dozen like those"
            " the model will see"
        )
    model, found_on = with_thresholds_found(model, data, class_names)
    source = None if data is None else load_data(data, model.backbone, class_names=class_names)
    evaluator = None
    if judged and source is not None:
        evaluator = _evaluator(model, source, uncompressed)
    images, checked_on = check_images(model, source, CHECKED)
    images, shown = model.backbone.fitted(images), None
    if precision == "int8" and data is not None:
        used = max(CHECKED, judged)
        shown = model.backbone.fitted(calibration_images(model, data, class_names, used=used))
    result = export_model(
        model,
        output,
        images,
        format=format,
        batch=batch,
        dynamic_batch=dynamic_batch,
        precision=precision,
        opset=opset,
        calibration=shown,
        checked_on=checked_on,
    )
    report = result.to_dict() | _mean_cost(model, result) | counts_told(model, found_on)
    if evaluator is not None:
        report |= _quality(model, result, evaluator, judged)
    if measured:
        timed = images[:TIMED] if result.parts else repeated(images, batch)
        report |= _speed(model, result, timed)
    return report


def counts_told(model: CompressedViT, found_on: str) -> dict[str, str]:
    """What nominal counts of tokens mean: thresholds were found for them, or were not."""
    if found_on:
        return {"thresholds_found_on": found_on}
    missing = missing_thresholds(model.config)
    return {"counts": "nominal: thresholds not found; give --data to find them"} if missing else {}


def check_images(
    model: CompressedViT, source: DataSource | None, number: int
) -> tuple[Tensor, str]:
    """((n, C, H, W) that a file is compared with torch on, what they are in words): noise only
    where there is no data."""
    if source is None:
        return random_images(model, number), RANDOM
    return first_images(source, number), "images"


def random_images(model: CompressedViT, number: int, seed: int = 0) -> Tensor:
    """(number, C, H, W) of noise, enough where only shapes or differences matter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, *model.backbone.facts.image_shape, generator=generator)


def calibration_images(
    model: CompressedViT,
    data: str | Path,
    class_names: str | Path | None = None,
    *,
    used: int = CHECKED,
) -> Tensor:
    """(n, C, H, W) normalised: training images where the data has some, else those behind the first
    `used`, which the file is checked and judged on, or the last ones."""
    load = partial(load_data, data, model.backbone, class_names=class_names)
    try:
        source = load(split="train")
    except AutotokError:
        source = load()
        known = min(used + CALIBRATED, len(source))
        return source.batch(source.subset(known, 0)[-CALIBRATED:])[0]
    return first_images(source, CALIBRATED)


def with_thresholds_found(
    model: CompressedViT, data: str | Path | None, class_names: str | Path | None = None
) -> tuple[CompressedViT, str]:
    """(the model under thresholds that meet its amounts, on which images they were found); as it
    is, and "", where there are no images, or nothing is to be found."""
    if data is None or not missing_thresholds(model.config):
        return model, ""
    images = calibration_images(model, data, class_names)
    return calibrated(model, images), f"{len(images)} of '{data}'"


def first_images(source: DataSource, number: int, seed: int = 0) -> Tensor:
    """(n, C, H, W) normalised: the first images of the seeded order."""
    return source.batch(source.subset(min(number, len(source)), seed))[0]


def _mean_cost(model: CompressedViT, result: ExportResult) -> dict[str, Any]:
    """Of a model that stops early, over the images that the files were checked on."""
    if not result.stopped:
        return {}
    macs = np.array(macs_by_stop(model), dtype=np.float64)
    return {
        "macs_g_by_part": [round(float(each) / 1e9, 6) for each in macs],
        "macs_mean_g": round(float(macs @ result.stopped) / sum(result.stopped) / 1e9, 6),
    }


def _evaluator(
    model: CompressedViT, source: DataSource, uncompressed: Backbone | None
) -> Evaluator:
    """The judge of a file and of the torch model."""
    original = uncompressed or model.original.whole
    require_counterpart(model, original, "auto", taker=original)
    found = Evaluator(original, source)
    changed = model.config.mode == "retrain" or model.is_folded
    if changed and uncompressed is None and found.metric != "top1":
        raise ConfigError(
            f"the model's weights were changed, so '{found.metric}' needs the model it came from;"
            " give it as uncompressed, or judge on labelled images"
        )
    return found


def _quality(
    model: CompressedViT, result: ExportResult, evaluator: Evaluator, number: int
) -> dict[str, Any]:
    """Of the file and of the torch model, on the same images."""
    opened = open_file(Path(result.path), FORMATS.get(result.format))
    number = min(number, evaluator.num_images)
    file = FileModel(opened, model.config, batch=int(result.input_shape[0]))
    found, beside = (evaluator.evaluate(m, 0, number).quality() for m in (file, model))
    return {
        "labelling": evaluator.data.labelling,
        "quality_metric": found.metric,
        "quality_of_file": round(found.value, 4),
        "quality_of_file_low_95": round(found.low, 4),
        "quality_of_file_high_95": round(found.high, 4),
        "quality_in_torch": round(beside.value, 4),
        "quality_images": found.num_images,
    }


def _speed(model: CompressedViT, result: ExportResult, images: Tensor) -> dict[str, Any]:
    """Latency of the file beside the uncompressed model's float32 export, in the same runtime."""
    path = Path(result.path)
    found = measure_file(path, result.format, result.precision, images, model.original.whole)
    return {
        "measured_latency_ms": round(found.latency_ms, 3),
        "measured_uncompressed_ms": round(found.reference_latency_ms or 0.0, 3),
        "measured_speedup": round(found.speedup or 0.0, 3),
        "measurement": found.source,
    }
