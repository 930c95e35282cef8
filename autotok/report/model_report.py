"""Reports on one model as plain dictionaries: what `profile`, `evaluate`, `export` print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotok.backbones.autoformer_family import DEMO
from autotok.backbones.base import Backbone
from autotok.compression.model import CompressedViT
from autotok.compression.schedule import is_adaptive
from autotok.config import CompressionConfig
from autotok.counting.macs import cost
from autotok.counting.macs import uncompressed as uncompressed_cost
from autotok.devices.device import leaving, measure_on, open_device
from autotok.devices.measurement import PROLONGED
from autotok.errors import ExportError
from autotok.evaluation.accuracy import Quality
from autotok.evaluation.data import load_data
from autotok.evaluation.own_quality import OwnQuality
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle
from autotok.export.bundle import save_bundle
from autotok.methods.registry import get_method
from autotok.methods.thresholds import Calibrated
from autotok.predicting.predict import predict
from autotok.predicting.target import load_target
from autotok.searching.running.judging import Judged, judge

from .block_report import block_report
from .counts_report import counts_report
from .export_report import check_images, counts_told, with_thresholds_found
from .told_classes import kept_class_names

CHECKED = 4
"""Images that a bundle's file is compared with torch on."""
OnProgress = Callable[[float, str], None]


def profile_report(
    model: CompressedViT,
    *,
    target: str | Path | None,
    check: bool,
    measure_on: str | None,
    batch: int | None = None,
) -> dict[str, Any]:
    """Exact cost, block by block too; with `check` the independent counts, torch's and fvcore's;
    prediction and measurement if asked for.

    `measure_on` is what it is timed on, see `open_device`; None for no measurement. `batch` is of
    prediction and measurement: by default the target's, or 1 without one.
    """
    if batch is None:
        batch = 1 if target is None else load_target(target).default_batch
    facts = model.backbone.facts
    exact, whole = cost(facts, model.config), uncompressed_cost(model.original.whole.facts)
    report: dict[str, Any] = {
        "backbone": facts.name,
        "method": model.config.method,
        **({"image_size": facts.image_shape[1]} if model.backbone.is_resized else {}),
        "patch_tokens": facts.num_patches,
        "patch_tokens_kept": list(model.schedule.kept),
        "patch_tokens_by_layer": model.schedule.by_layer,
        "macs": exact.macs,
        "macs_g": round(exact.macs_g, 4),
        "macs_noattn_g": round(exact.macs_noattn_g, 4),
        "flops2x_g": round(exact.flops2x_g, 4),
        "params_m": round(exact.params_m, 4),
        "share_of_uncompressed_pct": round(100 * exact.macs / whole.macs, 2),
    }
    if is_adaptive(model.config):
        report["counts"] = "nominal: they depend on the image; `autotok evaluate` says the mean"
    if check:
        report |= counts_report(model, exact)
    if target is not None:
        found = predict(model, target, batch=batch)
        report |= {
            "predicted_latency_ms": round(found.latency_ms, 3),
            "predicted_peak_memory_mb": round(found.peak_memory_mb, 1),
            "prediction": found.source,
            "prediction_setting": f"{found.setting}, {found.dtype}, batch {found.batch}",
        }
    if measure_on is not None:
        report |= _measured(model, measure_on, batch)
    return report | block_report(model, target=target, measure_on=measure_on, batch=batch)


def _measured(model: CompressedViT, name: str, batch: int) -> dict[str, Any]:
    """The reading of a device, as lines of a report; what it cannot tell is left out."""
    device = open_device(name)
    with leaving(device):
        found = measure_on(device, model, batch=batch)
    lines = {
        "measured_latency_ms": found.latency_ms,
        "measured_p90_ms": found.p90_ms,
        "measured_mad_ms": found.mad_ms,
        "measured_runs": found.runs,
        "measured_verdict": found.verdict + PROLONGED * found.prolonged,
        "measured_host_ms": found.host_ms,
        "measured_device_ms": found.device_ms,
        "measured_uncompressed_ms": found.reference_latency_ms,
        "measured_speedup": found.speedup,
        "measured_speedup_error_pct": found.speedup_error_pct,
        "measured_peak_memory_mb": found.peak_memory_mb,
        "measured_peak_memory_by": found.memory_source,
        "measured_energy_mj": found.energy_mj,
        "measured_energy_by": found.energy_source or None,
        "measurement": found.source,
    }
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in lines.items()
        if value is not None
    }


def quality_report(
    model: CompressedViT,
    data: str | Path,
    *,
    metric: str,
    num_images: int | None,
    seed: int,
    on_progress: OnProgress,
    uncompressed: Backbone | None = None,
    class_names: str | Path | None = None,
    precision: str = "auto",
    own: OwnQuality | None = None,
    mean_macs: float | None = None,
) -> dict[str, Any]:
    """Quality with its interval, of the model and of the uncompressed backbone.

    `uncompressed` is the original of a fine-tuned model; by default the model's own backbone;
    `class_names` is a file of class names, see `load_data`; `mean_macs` what an image of a model
    with exits may cost on average, see `judge`.
    """
    judged = judge(
        model,
        data,
        metric=metric,
        num_images=num_images,
        seed=seed,
        uncompressed=uncompressed,
        class_names=class_names,
        precision=precision,
        own=own,
        mean_macs=mean_macs,
        on_progress=on_progress,
    )
    found = judged.quality
    report: dict[str, Any] = {
        "data": judged.data.name,
        "labelling": judged.data.labelling,
        "metric": found.metric,
        "description": found.description,
        "value": round(found.value, 4),
        "low_95": round(found.low, 4),
        "high_95": round(found.high, 4),
        "num_images": found.num_images,
        "finetuned": found.finetuned,
        "uncompressed": round(judged.reference.value, 4),
        "precision": judged.judged_in.precision,
        "precision_why": judged.judged_in.why,
        "judged_format": judged.model.config.number_format,
        "patch_tokens": judged.model.backbone.facts.num_patches,
        "patch_tokens_by_layer": judged.model.schedule.by_layer,
    }
    return report | _adaptive_costs(judged)


def _adaptive_costs(judged: Judged) -> dict[str, Any]:
    """Mean and spread of the cost over images, where token counts differ between images."""
    found, config = judged.quality, judged.model.config
    if found.macs_mean is None or found.macs_std is None:
        return {}
    method = get_method(config.method)
    name = method.calibrates if issubclass(method, Calibrated) else ""
    thresholds = {r.layer: r.options[name] for r in config.reductions if name in r.options}
    report: dict[str, Any] = {
        "macs_mean": found.macs_mean,
        "macs_mean_g": round(found.macs_mean / 1e9, 4),
        "macs_spread_g": round(found.macs_std / 1e9, 4),
        "macs_num_images": found.num_images,
        "macs_nominal": cost(judged.model.backbone.facts, config).macs,
        "stopped_pct_behind_block": _stopped(found, config),
        "thresholds": thresholds,
        "thresholds_found_on": judged.thresholds_from,
    }
    return {key: value for key, value in report.items() if value not in ("", {})}


def _stopped(found: Quality, config: CompressionConfig) -> dict[str, float]:
    """Per cent of the images by the block they stopped behind, and of those that went on."""
    if config.exits is None:
        return {}
    places = [*map(str, config.exits.layers), "end"]
    return {
        place: round(100.0 * share, 2)
        for place, share in zip(places, found.exit_shares, strict=True)
    }


def write_bundle(
    model: CompressedViT,
    output: str | Path,
    *,
    checkpoint: str | Path | None,
    data: str | Path | None = None,
    class_names: str | Path | None = None,
    found_in: str | Path | None = None,
) -> dict[str, Any]:
    """Write configuration, weights and ONNX of one compressed model to a folder.

    A method of thresholds that is only given amounts has them found on training images of `data`;
    without any (the built-in demo has its own) the folder says that they were not. The file is
    compared with torch on images of `data`, on noise without any.

    Classes are called as the file `class_names` says, else as in the bundle or `best.yaml` that the
    model was `found_in`, else as images of `data` call them, else by the model's own names.
    """
    if model.config.number_format == "int8":
        raise ExportError(
            "int8 is calibrated on images, which are not given here; write the file alone by"
            " autotok export --precision int8 --data FOLDER"
        )
    output, checkpoint = Path(output), None if checkpoint is None else Path(checkpoint)
    facts = model.backbone.facts
    data = "demo" if data is None and facts.name == DEMO else data
    names_file, names = kept_class_names(found_in, class_names, facts.num_classes)
    model, found_on = with_thresholds_found(model, data, class_names)
    exact = cost(facts, model.config)
    named = {} if names_file is None else {"class_names": names_file}
    bundle = Bundle(
        backbone=BackboneRef.of(model.original.whole.facts, checkpoint=checkpoint),
        config=model.config,
        preprocessing=preprocessing_of(model.backbone).to_dict(),
        evidence={"costs": exact.columns, **named},
    )
    source = None if data is None else load_data(data, model.backbone, class_names=class_names)
    images, checked_on = check_images(model, source, CHECKED)
    names = names or (() if source is None else source.class_names or ())
    results = save_bundle(output, model, bundle, images, checked_on=checked_on, class_names=names)
    onnx = results["exports"].get("onnx", {})
    return {
        "folder": str(output),
        "method": model.config.method,
        "patch_tokens": facts.num_patches,
        "patch_tokens_kept": list(model.schedule.kept),
        "patch_tokens_by_layer": model.schedule.by_layer,
        **counts_told(model, found_on),
        "macs_g": round(exact.macs_g, 4),
        "onnx_ok": onnx.get("ok"),
        "onnx_max_abs_diff": onnx.get("max_abs_diff"),
        "onnx_checked_on": f"{onnx['num_images']} {checked_on}" if "num_images" in onnx else None,
    }
