"""Number formats crossed with token methods: which files are worth shipping to this machine?

    python studies/number_formats/run.py demo
    python studies/number_formats/run.py cifar10 --data cifar10 --checkpoint vit_cifar10.safetensors

A search over float32 and int8 for quality and measured latency in ONNX Runtime; then the file of
every model that the final evaluation judged is written, for its size. Writes NAME.csv, NAME.md and
NAME.png beside itself.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import autotok
from autotok.backbones.base import Backbone
from autotok.metrics import METRICS, metric_of
from autotok.report.export_report import calibration_images
from autotok.report.plots import pareto_png
from autotok.report.points import points_of
from autotok.report.sentences import standing_sentences
from autotok.searching.records.record import TrialRecord

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["demo", "cifar10"])
    parser.add_argument("--data", default="demo")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--images", type=int, default=500, help="of the final evaluation")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--report-only", action="store_true", help="of the run in --output")
    asked = parser.parse_args()
    demo = asked.name == "demo"
    backbone = "autoformer_demo" if demo else "vit_small_patch14_dinov2"
    how = {"checkpoint": asked.checkpoint, "image_size": None if demo else 112}
    output = asked.output or Path("runs/number_formats") / asked.name
    if asked.report_only:
        run = autotok.Run(output)
    else:
        run = autotok.search(
            backbone,
            **how,
            data=asked.data,
            budget="100%",
            target="local",
            formats=["float32", "int8"],
            measure_on="local?runtime=onnxruntime",
            objectives=["quality", "latency"],
            n_trials=asked.trials,
            timeout_s=asked.timeout,
            images_final=asked.images,
            retrain_trials=0,
            output=output,
        )
    report(run, asked.name, asked.data, autotok.load_backbone(backbone, **how))


def report(run: autotok.Run, name: str, data: str, backbone: Backbone) -> None:
    """The front's models and the controls, each with the size of its file."""
    found = run.records()
    reference: TrialRecord = found["reference"]
    records = [("uncompressed", reference)]
    front = sorted(found["front"], key=lambda r: r.values["latency_ms"])
    records += [("best" if r.number == found["best"].number else "front", r) for r in front]
    base, rows = reference.values["latency_ms"], []
    lines = [
        "| | method | format | GFLOPs | quality on the file [95 %] | images | latency, ms |"
        " over uncompressed | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for what, record in records:
        score, config = record.score, record.config
        assert score is not None
        assert config is not None
        assert record.costs is not None
        size = size_mb(autotok.compress(backbone, config), data)
        latency = record.values["latency_ms"]
        lines.append(
            f"| {what} | {config.method} | {config.number_format} | {record.costs.macs / 1e9:.3f} |"
            f" {score.value:.1f} [{score.low:.1f}, {score.high:.1f}] | {score.num_images} |"
            f" {latency:.1f} | {latency / base:.2f} | {size:.1f} |"
        )
        rows.append({"what": what, "file_mb": round(size, 1), **record.row()})
    sentences = standing_sentences(found["comparisons"], metric_of(reference.score.metric))
    (HERE / f"{name}.md").write_text("\n".join([*lines, "", *sentences]) + "\n")
    with (HERE / f"{name}.csv").open("w", newline="") as file:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join([*lines, "", *sentences]))
    metric = metric_of(reference.score.metric)
    pareto_png(HERE / f"{name}.png", points_of(found), metric, x=METRICS["latency_ms"], title=name)


def size_mb(model: autotok.CompressedViT, data: str) -> float:
    """Of the ONNX file in the configuration's number format."""
    lowered = model.config.number_format == "int8"
    shown = calibration_images(model, data) if lowered else None
    with tempfile.TemporaryDirectory() as folder:
        return autotok.export(model, Path(folder) / "model.onnx", calibration=shown).size_mb


if __name__ == "__main__":
    main()
