"""The README of a bundle folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotok.compression.telling import missing_thresholds
from autotok.config import CompressionConfig
from autotok.metrics import METRICS, ON_DEVICE, Metric
from autotok.pruned_spec import PrunedSpec

from .best_yaml import Bundle, trained_words
from .engines import engine_table
from .formats import FORMATS
from .onnx import output_name
from .onnx_session import EXACT_INT8
from .weights import EXITS, REDUCERS, WEIGHTS


def not_rebuilt(found: Mapping[str, Any], config: CompressionConfig) -> str:
    """That the folder does not give the model again, and what does."""
    instead = "; compress your own model object with config.yaml instead"
    why = found.get("error") or f"its outputs differ by {found['max_abs_diff']:.1e}"
    return (
        f"what name, configuration and weights give is another model than was compressed ({why}):"
        " autotok.load cannot rebuild it, the exported files are right"
        + ("" if trained_words(config) else instead)
    )


def readme(
    bundle: Bundle,
    exports: Mapping[str, Any],
    has_reducers: bool,
    rebuilt: Mapping[str, Any] | None = None,
) -> str:
    """Text on how to use a bundle folder."""
    ref, config = bundle.backbone, bundle.config
    channels, height, width = ref.image_shape
    height, width = (config.image_size or side for side in (height, width))
    output = output_name(ref.num_classes)
    onnx = exports.get("onnx", {})
    runs = "path" in onnx and bool(bundle.preprocessing)
    lines = [
        _title(bundle),
        "",
        f"Made by autotok {bundle.autotok}. In this folder:",
        "",
        "- `config.yaml`: backbone, preprocessing, configuration and evidence",
        f"- `{WEIGHTS}`: the backbone's weights under their usual names",
        *([f"- `{EXITS}`: heads by which images stop early"] if bundle.config.exits else []),
        *([f"- `{REDUCERS}`: the compression method's own weights"] if has_reducers else []),
        *[
            f"- {_files(found)}: {_export_line(found)}"
            for found in exports.values()
            if "path" in found
        ],
        *[
            f"- no {name} file: {found['error']}"
            for name, found in exports.items()
            if "error" in found
        ],
        "- `check.json`: how the exported files compare with torch",
        *(
            [
                "- `preprocessing.json`: from an image file to the model's input, as data and in"
                " words",
                "- `infer.py`: does that and runs the ONNX file; needs numpy, pillow, onnxruntime",
            ]
            if runs
            else []
        ),
        "",
        *(_alone() if runs else []),
        *(
            []
            if rebuilt is None or rebuilt["ok"]
            else [f"CAREFUL: {not_rebuilt(rebuilt, config)}.", ""]
        ),
        "In Python, with autotok:",
        "",
        "    import autotok",
        f'    model = autotok.load(".")           # images in, {output} out',
        "",
        _on_your_own(config),
        *_number_format(config.number_format, bundle.evidence),
        *_image_size(config.image_size, ref.image_shape[1:]),
        *_thresholds(bundle),
        "",
        *_figures(bundle.evidence),
        f"Input: `images`, float32 (batch, {channels}, {height}, {width}), prepared as",
        ("`preprocessing.json`" if runs else "`preprocessing` in `config.yaml`")
        + f" says. Output: `{output}`.",
        "",
        *_usage(exports),
        *_elsewhere(onnx),
    ]
    return "\n".join(lines)


def _on_your_own(config: CompressionConfig) -> str:
    trained = trained_words(config)
    if not trained:
        return 'or on a model of your own: `autotok.compress(model, "config.yaml")`.'
    return f"The configuration {trained}: weights other than these do not fit it."


def _title(bundle: Bundle) -> str:
    """Whose model it is, and what was done to it."""
    config, name = bundle.config, bundle.backbone.name
    cut, subnet = "pruned" if isinstance(config.subnet, PrunedSpec) else "subnet", config.subnet
    done = [] if subnet is None else [f"{cut} ({subnet.short})"]
    done += [] if config.method == "none" else [f"compressed by {config.method}"]
    done += ["fine-tuned"] if config.mode == "retrain" else []
    done += [] if config.number_format == "float32" else [f"in {config.number_format}"]
    done += [] if config.image_size is None else [f"on images of {config.image_size} pixels a side"]
    done += ["with exits"] if config.exits is not None else []
    return f"# {name}, {', '.join(done) or 'uncompressed'}"


def _alone() -> list[str]:
    return [
        "Without autotok:",
        "",
        "    pip install numpy pillow onnxruntime",
        "    python infer.py IMAGE.jpg",
        "",
    ]


def _usage(exports: Mapping[str, Any]) -> list[str]:
    """How files that say so are run elsewhere."""
    files = {name: found["path"] for name, found in exports.items() if "path" in found}
    told = [FORMATS.get(name).usage(file) for name, file in files.items()]
    return [line for lines in told if lines for line in (*lines, "")]


def _number_format(name: str, evidence: Mapping[str, Any]) -> list[str]:
    if name == "float32":
        return []
    judged = evidence.get("judged_format")
    said = "was judged on such a file" if judged == name else "below, if any, is that of float32"
    return [
        "",
        f"The configuration's number format is {name}: the exported file is in it. Its quality",
        f"{said}. In torch the model computes in float32.",
        *(_exact_int8() if name == "int8" else []),
    ]


def _exact_int8() -> list[str]:
    return [
        "",
        "In a program of your own on an x86 processor without VNNI, set ONNX Runtime's session",
        f"option `{EXACT_INT8[0]}` to `{EXACT_INT8[1]}`, as `infer.py` does: int8 sums overflow",
        "there without it.",
    ]


def _image_size(side: int | None, own: tuple[int, ...]) -> list[str]:
    if side is None or own == (side, side):
        return []
    return [
        "",
        f"The configuration runs on images of {side} x {side} pixels, not of {own[0]} x {own[1]}.",
        "In torch the model resizes what it is given; exported files take that size: the resize is",
        "the last step of their preprocessing.",
    ]


def _thresholds(bundle: Bundle) -> list[str]:
    if not missing_thresholds(bundle.config):
        return []
    return [
        "",
        "CAREFUL: counts of tokens, and costs by formula, are nominal: thresholds were not found,",
        "so images keep other numbers of tokens. Give `autotok compress` images as --data.",
    ]


def _elsewhere(found: Mapping[str, Any]) -> list[str]:
    """What engines make of the ONNX file, by their own lists of operators."""
    verdicts = found.get("engines") or {}
    if not verdicts:
        return []
    lines = [f"- {engine.what}: {verdicts[engine.name]}" for engine in engine_table()]
    return ["Engines elsewhere, by their own lists of operators (none of them ran it):", "", *lines]


def _figures(evidence: Mapping[str, Any]) -> list[str]:
    """Quality, cost, latency and memory, each with where it comes from; what is not known is left
    out."""
    measured, predicted = evidence.get("measured"), evidence.get("predicted") or {}
    figures = measured or predicted
    quality = evidence.get("quality")
    lines = [*_quality(quality), *_cost(evidence, quality or {})]
    for metric in map(METRICS.__getitem__, ON_DEVICE):
        value = figures.get(metric.name)
        if value is not None:
            told = f"{metric.label.capitalize()}: {value:.4g} {metric.unit}"
            lines.append(f"- {told}, {_source(evidence, metric)}.")
    return ["Figures, and where they come from:", "", *lines, ""] if lines else []


def _quality(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    metric = METRICS[found["metric"]]
    low, high = (metric.number(found[side]) for side in ("low", "high"))
    label = metric.label[0].upper() + metric.label[1:]
    return [
        f"- {label}: {metric.text(found['value'])} ({low} to {high} at 95 %), judged on"
        f" {found['num_images']} images."
    ]


def _cost(evidence: Mapping[str, Any], quality: Mapping[str, Any]) -> list[str]:
    """By formula; where images cost different amounts the mean, beside which that is nominal."""
    number, nominal = METRICS["macs"].number, (evidence.get("costs") or {}).get("macs_g")
    mean, counted = quality.get("macs_mean"), evidence.get("macs_counted")
    macs_g = mean / 1e9 if mean else nominal
    if macs_g is None:
        return []
    how = f"the mean over the {quality['num_images']} images judged" if mean else "by formula"
    if mean and nominal is not None and number(nominal) != number(macs_g):
        how += f" (nominally, by formula, {number(nominal)})"
    if counted is not None:
        which = "counter, run on some of them, comes to" if mean else "counter found"
        how += f"; a second, independent {which} {number(counted / 1e9)}"
    return [
        f"- Cost: {number(macs_g)} G multiply-accumulates an image, attention included"
        f" (papers say GFLOPs), {how}."
    ]


def _source(evidence: Mapping[str, Any], metric: Metric) -> str:
    reading = evidence.get("measured")
    if reading is not None:
        how = f"{reading['runtime']}, {reading['dtype']}, batch {reading['batch']}"
        return f"measured on {reading['device']} ({how}, {reading['verdict']}, {reading['when']})"
    target = (evidence.get("question") or {}).get("target")
    predicted, about = evidence["predicted"], evidence.get("predicted_for") or {}
    error = predicted.get(f"{metric.aspect}_error_pct")
    checked = "never checked" if error is None else f"checked to {error:.1f} %"
    if predicted.get(f"{metric.aspect}_correction", 1.0) != 1.0:
        checked = about.get("corrected") or "corrected by what was measured"
    several = (about.get("batch") or 1) > 1
    batch = f"{about.get('batch')} images at a time" if several else ""
    words = ", ".join(filter(None, (about.get("of"), batch, checked)))
    return f"predicted for {target or 'a target'} ({words}), not measured"


def _files(found: Mapping[str, Any]) -> str:
    parts = ", ".join(f"`{file}`" for file in found.get("parts", ()))
    said = f"`{found['path']}`"
    return f"{parts}, run in turn as {said} says" if parts else said


def export_verdict(found: Mapping[str, Any]) -> str:
    """How a file compares with torch, in words that its images follow."""
    if found["ok"] and found["precision"] != "float32":  # held to no more than being finite
        return f"has the same first choice as torch on {found['agreement_pct']:g} %,"
    return "agrees with torch" if found["ok"] else "DISAGREES with torch"


def _export_line(found: Mapping[str, Any]) -> str:
    own = found.get("own_sensitivity")
    edge = (
        ""
        if own is None
        else f"; torch differs from itself by {own:.1e} when the input moves by a millionth"
    )
    if found.get("parts"):
        stopped = ", ".join(map(str, found["stopped"]))
        edge += (
            f"; answered by each part: {stopped} of them, {found['same_stop_pct']:g} % by the same"
            " part as in torch"
        )
    return (
        f"{found['precision']}, batch {found['batch']}, {found['size_mb']} MB,"
        f" {export_verdict(found)} on {found['num_images']} {found.get('checked_on', 'images')}"
        f" (largest difference {found['max_abs_diff']:.1e}{edge})"
    )
