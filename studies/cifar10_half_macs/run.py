"""Half the multiply-accumulates of a small timm ViT on CIFAR-10: plugged in, and retrained.

    python studies/cifar10_half_macs/prepare.py --data cifar10 --output vit_cifar10.safetensors
    python studies/cifar10_half_macs/run.py --data cifar10 --checkpoint vit_cifar10.safetensors

One search with both modes allowed; then the best configuration of each mode, and the uncompressed
model, on the same test images. Writes results.csv, summary.md and pareto.png beside itself.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import autotok
from autotok.evaluation.paired import compare
from autotok.metrics import metric_of
from autotok.report.plots import pareto_png
from autotok.report.points import Point, points_of
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.settings import SearchSettings

HERE = Path(__file__).parent
METRIC = metric_of("top1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--timeout", type=float, default=1500.0)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--output", type=Path, default=Path("runs/cifar10_half_macs"))
    parser.add_argument("--report-only", action="store_true", help="of the run in --output")
    options = parser.parse_args()
    if options.report_only:
        report(autotok.Run(options.output))
        return
    settings = SearchSettings(
        n_trials=options.trials, timeout_s=options.timeout, images_final=1000, front_size=4
    )
    run = autotok.search(
        options.backbone,
        checkpoint=options.checkpoint,
        image_size=options.image_size,
        data=options.data,
        budget="50%",
        space=str(HERE / "space.yaml"),
        settings=settings,
        output=options.output,
    )
    report(run)


def report(run: autotok.Run) -> None:
    """The best of each mode against the uncompressed model, image by image."""
    found = run.records()
    reference: TrialRecord = found["reference"]
    records = {"uncompressed": reference}
    for mode in ("plug-in", "retrain"):
        mine = [r for r in found["front"] if r.config.mode == mode and r.score is not None]
        if mine:
            records[mode] = max(mine, key=lambda r: r.score.value)
    if found["random_control"] is not None:
        records["random control"] = found["random_control"]
    lines = [
        "| | method | GFLOPs | top-1, % [95 %] | against uncompressed, points | images |"
        " fine-tune |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name, record in records.items():
        score, paired = record.score, compare(record.tally, reference.tally)
        difference = "-" if name == "uncompressed" or paired is None else paired.text
        tuned = record.tuned
        training = "-" if tuned is None else f"{tuned['steps']} steps, {tuned['seconds']:.0f} s"
        lines.append(
            f"| {name} | {record.config.method} | {record.costs.macs / 1e9:.3f} |"
            f" {score.value:.1f} [{score.low:.1f}, {score.high:.1f}] | {difference} |"
            f" {score.num_images} | {training} |"
        )
        rows.append({"what": name, **{k: v for k, v in record.row().items() if k != "reason"}})
    lines += ["", "| retrained | GFLOPs | plug-in, % | fine-tuned, % | gain, points | minutes |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for gain in found["comparisons"].tuning:
        if gain.gain is not None:
            lines.append(
                f"| {gain.method} (trial {gain.number}) | {gain.macs_g:.3f} | {gain.plugged:.1f} |"
                f" {gain.tuned:.1f} | {gain.gain.text} | {gain.minutes:.1f} |"
            )
    (HERE / "summary.md").write_text("\n".join(lines) + "\n")
    with (HERE / "results.csv").open("w", newline="") as file:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(lines))
    draw(run, found)


def draw(run: autotok.Run, found: dict[str, Any]) -> None:
    """The run's picture, without the name of the folder its images were in."""
    trials = [Point.from_row(row, METRIC) for row in run.trials.to_dict("records")]
    points = [*points_of(found), *(p for p in trials if p.quality is not None)]
    budget = min(b.limit for b in found["budgets"]) / 1e9
    title = f"{run.config['question']['backbone']} on CIFAR-10, budget 50 %"
    pareto_png(HERE / "pareto.png", points, METRIC, limits={"macs": budget}, title=title)


if __name__ == "__main__":
    main()
