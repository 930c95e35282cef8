"""Five methods at six strengths on the demo subnet: naive and carried positions, plugged in and
after a short fine-tune.

    python studies/autoformer_positions/run.py

Shaped like Tables II and III of the survey "Token Compression Meets Compact Vision Transformers":
merging and pruning methods take r tokens away in every layer; LTP, which cuts once before the
blocks, keeps as many tokens as cost the same. Naive positions are rebuilt from the sequence length,
as AutoFormer's own code does; carried ones are looked up by where a token came from.

Writes results.csv row by row (what it has already is not run again), tables.md and curves.png.
`--methods` lets several processes share the work.
"""

import argparse
import csv
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost, schedule_macs
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import load_data
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.author_units import from_num_removed
from autotok.training.distill import Teacher
from autotok.training.finetune import finetune_student
from autotok.training.student import student_of

HERE = Path(__file__).parent
METHODS = ("tome", "tofu", "pitome", "topk", "ltp")
REMOVED = (12, 24, 36, 48, 56, 64)
"""Per layer, of 841: in shares about what r = 3, 6, 9, 12, 14, 16 are of AutoFormer-S's 196 in 13
layers. A matching method can take no more: half of what enters a layer is its limit."""
COLUMNS = ("method", "removed_per_layer", "positions", "mode", "macs_g", "patches_left", "top1_pct",
           "low_95", "high_95", "num_images", "finetune_s", "hits")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--strengths", nargs="*", type=int, default=REMOVED)
    parser.add_argument("--tables-only", action="store_true")
    options = parser.parse_args()
    path = HERE / "results.csv"
    if not path.is_file():
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)
    if not options.tables_only:
        run(path, options)
    report(path, options)


def run(path: Path, options: argparse.Namespace) -> None:
    """Every row that is not there yet, plugged in before fine-tuned."""
    reuse_large_blocks()
    backbone = load_backbone("autoformer_demo")
    evaluator = Evaluator(backbone, load_data("demo", backbone), metric="top1", seed=0)
    train, teacher = load_data("demo", backbone, split="train"), Teacher(backbone)
    spec = FineTuneSpec(length=f"{options.steps} steps", batch_size=8, lr=options.lr)
    for mode in ("plug-in", "retrain"):
        for removed, config in configurations(backbone, options):
            done = key(config.method, removed, config.positions, mode) in known(path)
            if done or (mode == "retrain" and config.method == "none"):
                continue
            model, seconds = compress_backbone(backbone, config), 0.0
            if mode == "retrain":
                begin = time.perf_counter()
                model = student_of(backbone, config)
                finetune_student(model, train, spec, teacher=teacher)
                seconds = time.perf_counter() - begin
            tally = evaluator.evaluate(model, 0, options.images)
            q = tally.quality()
            left = config.reductions[-1].num_keep if config.reductions else 841
            macs_g = cost(backbone.facts, config).macs_g
            figures = [f"{x:.2f}" for x in (q.value, q.low, q.high)]
            row = [config.method, removed, config.positions, mode, f"{macs_g:.4f}", left, *figures,
                   q.num_images, f"{seconds:.1f}", tally.hits]  # fmt: skip
            with path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row[:-1], sep="  ", flush=True)


def configurations(
    backbone: Backbone, options: argparse.Namespace
) -> Iterator[tuple[int, CompressionConfig]]:
    """(r, configuration), the uncompressed model among the methods as 'none'."""
    facts = backbone.facts
    yield 0, CompressionConfig()
    for removed, method in itertools.product(options.strengths, options.methods):
        reductions = from_num_removed(removed, facts.num_patches, num_blocks=facts.num_blocks)
        if method == "ltp":
            plain = CompressionConfig("topk", reductions)
            reductions = single_cut(backbone, cost(facts, plain).macs)
        for positions in ("carried", "naive"):
            yield removed, CompressionConfig(method, reductions, positions=positions)


def single_cut(backbone: Backbone, macs: int) -> tuple[Reduction, ...]:
    """LTP's cut that costs nearest to a number of multiply-accumulates."""
    counts = np.arange(1, backbone.facts.num_patches)[:, None]
    costs = schedule_macs(backbone.facts, "ltp", {}, layers=[0], counts=counts)
    return (Reduction(0, num_keep=int(counts[np.abs(costs - macs).argmin(), 0])),)


def key(method: str, removed: int, positions: str, mode: str) -> str:
    return json.dumps([method, str(removed), positions, mode])


def known(path: Path) -> dict[str, dict[str, str]]:
    """Rows by what they are about."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        key(r["method"], int(r["removed_per_layer"]), r["positions"], r["mode"]): r for r in rows
    }


def report(path: Path, options: argparse.Namespace) -> None:
    """tables.md and curves.png from whatever rows there are."""
    rows = known(path)
    lines = []
    for mode, title in (("plug-in", "Plugged in"), ("retrain", "After a short fine-tune")):
        lines += [f"### {title}: top-1, % [95 % interval], carried / naive positions", ""]
        lines += ["| method | " + " | ".join(f"r = {r}" for r in REMOVED) + " |"]
        lines += ["|---|" + "---|" * len(REMOVED)]
        for method in METHODS:
            cells = [cell(rows, method, removed, mode) for removed in REMOVED]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        plain = rows.get(key("none", 0, "carried", mode))
        if plain is not None:
            lines += ["", f"Uncompressed: {figure(plain)}, {plain['num_images']} images."]
        lines.append("")
    (HERE / "tables.md").write_text("\n".join(lines))
    print("\n".join(lines))
    draw(rows)


def cell(rows: dict[str, dict[str, str]], method: str, removed: int, mode: str) -> str:
    found = [rows.get(key(method, removed, positions, mode)) for positions in ("carried", "naive")]
    return " / ".join("-" if row is None else figure(row) for row in found)


def figure(row: dict[str, str]) -> str:
    value, low, high = (float(row[c]) for c in ("top1_pct", "low_95", "high_95"))
    return f"{value:.1f} [{low:.0f}, {high:.0f}]"


def draw(rows: dict[str, dict[str, str]]) -> None:
    """One panel per method: cost against accuracy, four curves."""
    from matplotlib.figure import Figure

    chart = Figure(figsize=(15, 3.6), layout="constrained")
    panels = chart.subplots(1, len(METHODS), sharey=True)
    styles = {
        ("carried", "plug-in"): ("tab:blue", "o--"),
        ("carried", "retrain"): ("tab:blue", "o-"),
        ("naive", "plug-in"): ("tab:red", "s--"),
        ("naive", "retrain"): ("tab:red", "s-"),
    }
    for axes, method in zip(panels, METHODS, strict=True):
        for (positions, mode), (color, style) in styles.items():
            found = [rows.get(key(method, removed, positions, mode)) for removed in REMOVED]
            points = [(float(r["macs_g"]), float(r["top1_pct"])) for r in found if r is not None]
            if points:
                label = f"{positions}, {'fine-tuned' if mode == 'retrain' else mode}"
                axes.plot(*zip(*points, strict=True), style, color=color, label=label, ms=4)
        plain = rows.get(key("none", 0, "carried", "plug-in"))
        if plain is not None:
            axes.axhline(float(plain["top1_pct"]), color="gray", lw=0.8)
        axes.set_title(method)
        axes.set_xlabel("GFLOPs (1e9 MACs)")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 accuracy, %")
    panels[-1].legend(fontsize=7, handlelength=4)
    chart.savefig(HERE / "curves.png", dpi=130)


if __name__ == "__main__":
    main()
