"""The README of a bundle folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotok.metrics import METRICS, ON_DEVICE, Metric

from .onnx import output_name
from .weights import REDUCERS, WEIGHTS

if TYPE_CHECKING:
    from .bundle import Bundle


def readme(bundle: Bundle, exports: Mapping[str, Any], has_reducers: bool) -> str:
    """Text on how to use a bundle folder."""
    ref, config = bundle.backbone, bundle.config
    channels, height, width = ref.image_shape
    tuned, output = config.mode == "retrain", output_name(ref.num_classes)
    lines = [
        f"# {ref.name}, compressed by {config.method}" + (" and fine-tuned" if tuned else ""),
        "",
        f"Made by autotok {bundle.autotok}. In this folder:",
        "",
        "- `config.yaml`: backbone, preprocessing, configuration and evidence",
        f"- `{WEIGHTS}`: the backbone's weights under their usual names",
        *([f"- `{REDUCERS}`: the compression method's own weights"] if has_reducers else []),
        *[
            f"- `{found['path']}`: {_export_line(found)}"
            for found in exports.values()
            if "path" in found
        ],
        *[
            f"- no {name} file: {found['error']}"
            for name, found in exports.items()
            if "error" in found
        ],
        "- `check.json`: how the exported files compare with torch",
        "",
        "In Python, with autotok:",
        "",
        "    from autotok.export.bundle import load_bundle",
        "    from pathlib import Path",
        f'    model = load_bundle(Path("."))      # images in, {output} out',
        "",
        "The weights were fine-tuned for this configuration; the original ones do not fit it."
        if tuned
        else 'or on a model of your own: `autotok.compress(model, "config.yaml")`.',
        "",
        *_figures(bundle.evidence),
        f"Input: `images`, float32 (batch, {channels}, {height}, {width}), prepared as"
        " `preprocessing`",
        f"in `config.yaml` says. Output: `{output}`.",
        "",
    ]
    return "\n".join(lines)


def _figures(evidence: Mapping[str, Any]) -> list[str]:
    """Latency and memory, each with where it comes from; nothing where neither is known."""
    measured, predicted = evidence.get("measured"), evidence.get("predicted") or {}
    figures = measured or predicted
    lines = []
    for metric in map(METRICS.__getitem__, ON_DEVICE):
        value = figures.get(metric.name)
        if value is not None:
            told = f"{metric.label.capitalize()}: {value:.4g} {metric.unit}"
            lines.append(f"{told}, {_source(evidence, metric)}.")
    return [*lines, ""] if lines else []


def _source(evidence: Mapping[str, Any], metric: Metric) -> str:
    reading = evidence.get("measured")
    if reading is not None:
        how = f"{reading['runtime']}, {reading['dtype']}, batch {reading['batch']}"
        return f"measured on {reading['device']} ({how}, {reading['verdict']}, {reading['when']})"
    target = (evidence.get("question") or {}).get("target")
    error = evidence["predicted"].get(f"{metric.aspect}_error_pct")
    checked = "never checked" if error is None else f"checked to {error:.1f} %"
    return f"predicted for {target or 'a target'} ({checked}), not measured"


def _export_line(found: Mapping[str, Any]) -> str:
    verdict = "agrees with torch" if found["ok"] else "DISAGREES with torch"
    own = found.get("own_sensitivity")
    edge = (
        ""
        if own is None
        else f"; torch differs from itself by {own:.1e} when the input moves by a millionth"
    )
    return (
        f"batch {found['batch']}, {found['size_mb']} MB, {verdict} on {found['num_images']} images"
        f" (largest difference {found['max_abs_diff']:.1e}{edge})"
    )
