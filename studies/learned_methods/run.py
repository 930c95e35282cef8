"""Learned methods on the demo: trained for a few hundred steps, untrained, and random pruning.

    python studies/learned_methods/run.py

On the smallest subnet of the demo supernet (96 wide, 10 deep, 2.83 GFLOPs, the same 841 patches),
every method that has something to learn is judged as it comes, fine-tuned by its published recipe
scaled to `--steps`, and judged again; random pruning is given the same multiply-accumulates, in the
same layers (one block earlier for those that pool). Methods that score by parameters keep 70, 50
and 35 % of the patches at layers 3, 5 and 8 (A-ViT: as many on average); those that work plugged in
are compressed so hard that they lose something; those that pool go down to 3 % once, in the middle,
as PatchMerger does. Writes results.csv row by row (what it has already is not run again) and
table.md; `--methods` lets several processes share the work.
"""

import argparse
import csv
import time
from dataclasses import asdict
from pathlib import Path

from autotok.backbones.base import Backbone
from autotok.backbones.demo import DEMO_SPEC
from autotok.backbones.loading import load_backbone
from autotok.compression.calibrate import (
    CALIBRATION_IMAGES,
    calibrated,
    needs_calibration,
    needs_recalibration,
)
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost, schedule_macs
from autotok.evaluation.accuracy import Evaluator, Quality, Tally
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.paired import compare
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.registry import get_method
from autotok.searching.running.model_worker import judged_tally
from autotok.training.distill import Teacher, default_losses
from autotok.training.finetune import finetune_student
from autotok.training.student import emitted, student_of

HERE = Path(__file__).parent
KEEP = {3: 0.7, 5: 0.5, 8: 0.35}
HARD, HARDER, POOLED = (
    {1: 0.52, 2: 0.28, 3: 0.15, 4: 0.08, 5: 0.05},
    {1: 0.2, 3: 0.06, 5: 0.02, 7: 0.01},
    {5: 0.03},
)
SCHEDULES = {
    "dtem": HARD, "asvit": HARD, "ltmp": HARDER, "diffrate": HARDER,
    "sit": POOLED, "patchmerger": POOLED, "sinkhorn": POOLED,
}  # fmt: skip
LR = {
    "dynamicvit": 1e-3, "dtps": 1e-3, "spvit": 5e-3, "heatvit": 5e-3, "dtem": 1e-3,
    "cropr": 3e-4, "sit": 5e-4, "patchmerger": 5e-4, "sinkhorn": 1e-3, "avit": 3e-4,
    "tofe": 5e-4, "tofe-instance": 5e-4, "asvit": 1e-5, "ltmp": 1e-5,
}  # fmt: skip
"""Highest rate; of the methods' own parts, where the recipe slows the backbone. 1e-4 else."""
LOSSES = {"avit": {"ce": 1.0, "soft": 1.0}}
"""A-ViT is published with DeiT's losses, which distil or not; labels of 400 images teach little."""
OPTIONS = {"asvit": {"tau": 1e-3}}
"""At the published 1e-4, gradients through five layers of masks overflow."""
METHODS = ("dynamicvit", "dtps", "cropr", "tofe", "spvit", "heatvit", "tofe-instance", "dtem",
           "avit", "asvit", "ltmp", "diffrate", "sit", "patchmerger", "sinkhorn",
           "random")  # fmt: skip
COLUMNS = ("method", "state", "macs_g", "top1_pct", "low_95", "high_95", "num_images", "steps",
           "seconds", "lr", "gain_points", "gain_low", "gain_high", "hits")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--lr", type=float, help="highest rate of all, in place of LR")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    path = options.results
    if not path.is_file():
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)
    if not options.table_only:
        reuse_large_blocks()
        study = Study(options, path)
        for method in options.methods:
            study.run(method)
    found = path.with_name("table.md")
    found.write_text(table(list(csv.DictReader(path.open()))))
    print(found.read_text())


class Study:
    """One process's part of the rows."""

    def __init__(self, options: argparse.Namespace, path: Path) -> None:
        self.options, self.path = options, path
        self.backbone: Backbone = load_backbone("autoformer_demo", subnet=DEMO_SPEC.smallest())
        self.train: DataSource = load_data("demo", self.backbone, split="train")
        self.evaluator = Evaluator(self.backbone, load_data("demo", self.backbone))
        self.teacher = Teacher(self.backbone)

    def run(self, method: str) -> None:
        """The rows of one method that are missing."""
        known = {(row["method"], row["state"]) for row in csv.DictReader(self.path.open())}
        if (method, "trained") in known:
            return
        spec = FineTuneSpec(
            length=f"{self.options.steps} steps",
            losses=LOSSES.get(method)
            or default_losses(self.backbone.facts, config_of(method), labelled=True),
            lr=self.rate(method),
            batch_size=self.options.batch,
        )
        config = config_of(method, spec)
        student = student_of(self.backbone, config)
        images, _ = self.train.batch(self.train.subset(CALIBRATION_IMAGES, 0))
        if needs_calibration(config):
            student = calibrated(student, images)
        before = self.judge(method, "untrained", student.eval(), None, 0.0)
        began = time.perf_counter()
        done = finetune_student(student, self.train, spec, teacher=self.teacher)
        seconds = time.perf_counter() - began
        student = emitted(student)
        if needs_recalibration(config):
            student = calibrated(student, images)
        after = self.judge(method, "trained", student.eval(), done.steps, seconds, before)
        self.random(method, after)

    def rate(self, method: str) -> float:
        """The highest learning rate."""
        return float(self.options.lr or LR.get(method, 1e-4))

    def judge(
        self,
        method: str,
        state: str,
        model: CompressedViT,
        steps: int | None,
        seconds: float,
        before: "tuple[float, Quality, Tally] | None" = None,
    ) -> "tuple[float, Quality, Tally]":
        """(1e9 multiply-accumulates, quality, tally), written down as a row."""
        tally = judged_tally(self.evaluator, model, 0, self.options.images)
        quality = tally.quality()
        macs = (quality.macs_mean or cost(self.backbone.facts, model.config).macs) / 1e9
        gain = None if before is None else compare(asdict(tally), asdict(before[2]))
        lr = "" if steps is None else f"{self.rate(method):g}"
        row = [method, state, f"{macs:.4f}", f"{quality.value:.2f}", f"{quality.low:.2f}"]
        row += [f"{quality.high:.2f}", quality.num_images, steps or 0, f"{seconds:.0f}", lr]
        row += ["", "", ""] if gain is None else [
            f"{gain.difference:.2f}", f"{gain.low:.2f}", f"{gain.high:.2f}"]  # fmt: skip
        row += [tally.hits]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        print(*row[:-1], sep="  ", flush=True)
        return macs, quality, tally

    def random(self, method: str, trained: "tuple[float, Quality, Tally]") -> None:
        """Random pruning at the cost of the trained model, compared with it image by image."""
        facts, target = self.backbone.facts, trained[0] * 1e9
        keep = KEEP if get_method(method).single_layer else SCHEDULES.get(method, KEEP)
        layers, total = sorted(keep), facts.num_patches
        shares = [keep[layer] for layer in layers]
        if keep is POOLED:  # they act before a block, random pruning in the middle of one
            layers = [layer - 1 for layer in layers]
        low, high = 0.01, 1.0 / min(shares)
        for _ in range(30):
            middle = (low + high) / 2
            counts = [[min(total, max(1, round(middle * s * total))) for s in shares]]
            cost = schedule_macs(facts, "random", {}, layers, counts)[0]
            low, high = (middle, high) if cost < target else (low, middle)
        reductions = tuple(
            Reduction(layer, num_keep=count) for layer, count in zip(layers, counts[0], strict=True)
        )
        model = compress_backbone(self.backbone, CompressionConfig("random", reductions))
        self.judge(method, "random at its cost", model, None, 0.0, trained)


def config_of(method: str, spec: FineTuneSpec | None = None) -> CompressionConfig:
    """The schedule of the study for a method."""
    schedule = SCHEDULES.get(method, KEEP)
    reductions = tuple(Reduction(layer, keep_ratio=keep) for layer, keep in schedule.items())
    if get_method(method).single_layer:
        reductions = (Reduction(0, keep_ratio=sum(KEEP.values()) / len(KEEP)),)
    mode = "plug-in" if spec is None else "retrain"
    return CompressionConfig(method, reductions, OPTIONS.get(method, {}), mode, finetune=spec)


def table(rows: list[dict[str, str]]) -> str:
    """One line per method."""
    lines = [
        "| method | keep ratios | GFLOPs untrained / trained | untrained, % | trained, % |"
        " gain, points |"
        " random at its cost, % | random minus trained, points | steps, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        own = {row["state"]: row for row in rows if row["method"] == method}
        if "trained" not in own:
            continue
        plain, done = own["untrained"], own["trained"]
        control = own.get("random at its cost")
        lines.append(
            f"| {method} | {keeps(method)} | {plain['macs_g']} / {done['macs_g']} |"
            f" {share(plain)} | {share(done)} |"
            f" {difference(done)} | {share(control)} | {difference(control)} |"
            f" {done['steps']}, {done['seconds']} |"
        )
    return "\n".join(lines) + "\n"


def keeps(method: str) -> str:
    return " ".join(f"{r.keep_ratio:.3g}@{r.layer}" for r in config_of(method).reductions)


def share(row: dict[str, str] | None) -> str:
    if row is None:
        return "-"
    return f"{float(row['top1_pct']):.1f} [{float(row['low_95']):.1f}, {float(row['high_95']):.1f}]"


def difference(row: dict[str, str] | None) -> str:
    if row is None or not row["gain_points"]:
        return "-"
    numbers = [float(row[key]) for key in ("gain_points", "gain_low", "gain_high")]
    return f"{numbers[0]:+.1f} [{numbers[1]:+.1f}, {numbers[2]:+.1f}]"


if __name__ == "__main__":
    main()
