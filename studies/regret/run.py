"""Regret: is what runs of the default command recommend as good as the best that any evaluated?

    for seed in 0 1 2 3 4; do autotok search --target jetson-nx --budget 2.3GFLOPs \\
        --seed $seed -o runs/regret-$seed; done
    python studies/regret/run.py runs/regret-*

All 2,000 validation images, where the runs saw some hundred, for what each recommends, and for the
`--rivals` configurations that were best in the runs' own eyes. These race: who is told from the
best (95 %, paired) runs no further images. Goes on where it was stopped; `--minutes` ends it
earlier. Images so far stand in hits.json; the table is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import load_data
from autotok.evaluation.paired import paired_hits
from autotok.evaluation.precision import choose_format
from autotok.files import write_text
from autotok.report.run import Run

BLOCK = 100
MARGIN = 1.0
"""Points of top-1 within which a recommendation is as good as the best."""


@dataclass
class Rival:
    """A configuration and '1' or '0' of each image that it has seen, right or wrong."""

    config: CompressionConfig
    hits: str = ""
    stays: bool = False
    """Whether it was recommended, so that it runs all images."""

    @property
    def quality(self) -> float:
        """Percent of the images so far."""
        return 100.0 * self.hits.count("1") / max(1, len(self.hits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rivals", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--hits", type=Path, default=Path(__file__).parent / "hits.json")
    asked = parser.parse_args()
    runs = {path.name: Run(path) for path in asked.runs}
    field = rivals(runs, asked.rivals)
    if asked.hits.is_file():
        for key, hits in json.loads(asked.hits.read_text("utf-8")).items():
            if key in field:
                field[key].hits = hits
    race(field, asked.hits, time.monotonic() + 60.0 * asked.minutes)
    print(table(field, runs))


def rivals(runs: dict[str, Run], most: int) -> dict[str, Rival]:
    """What was recommended, and the best others in the runs' own eyes, by configuration."""
    field = {}
    for run in runs.values():
        assert run.best.config is not None
        field[run.best.config.config_id] = Rival(run.best.config, stays=True)
    rows = [
        (-row["top1_pct"], row["macs"], row["config"])
        for run in runs.values()
        for row in run.trials.to_dict("records")
        if row["state"] == "complete" and row["feasible"] and row["mode"] == "plug-in"
    ]
    for *_, text in sorted(rows):
        config = CompressionConfig.from_dict(json.loads(text))
        if len(field) < most + len(runs):
            field.setdefault(config.config_id, Rival(config))
    return field


def race(field: dict[str, Rival], kept: Path, deadline: float) -> None:
    """Run images, in the same order for all, until all have left or the time is up."""
    reuse_large_blocks()
    backbone = load_backbone("autoformer_demo").eval()
    data = load_data("demo", backbone)
    chosen = choose_format("auto", backbone, data, seed=0)
    judge = Evaluator(backbone, data, metric="top1", precision=chosen.precision)
    for stop in range(BLOCK, len(data) + 1, BLOCK):
        for rival in in_question(field):
            if len(rival.hits) >= stop:
                continue
            if time.monotonic() > deadline:
                return
            model = compress_backbone(backbone, rival.config).eval()
            rival.hits += judge.evaluate(model, len(rival.hits), stop).hits
            write_text(kept, json.dumps({key: r.hits for key, r in field.items()}) + "\n")


def in_question(field: dict[str, Rival]) -> list[Rival]:
    """Who was recommended, and who is not told from the best."""
    best = max(field.values(), key=lambda r: (len(r.hits), r.quality))
    return [r for r in field.values() if r.stays or not _is_worse(r, best)]


def _is_worse(rival: Rival, best: Rival) -> bool:
    if not rival.hits or rival is best:
        return False
    return paired_hits(rival.hits, best.hits, metric="top1").verdict == "worse"


def table(field: dict[str, Rival], runs: dict[str, Run]) -> str:
    """What each run recommends, beside the best."""
    full = min(len(r.hits) for r in field.values() if r.stays)
    best = max((r for r in field.values() if len(r.hits) >= full), key=lambda r: r.quality)
    lines = [
        f"best of {len(field)}: {best.config.method}, {best.quality:.1f} % of {len(best.hits)}"
        f" images; {sum(len(r.hits) >= full for r in field.values())} ran {full} or more",
        "",
        "| run | recommends | final images | there | on all | below the best | p |",
        "|---|---|---|---|---|---|---|",
    ]
    within = 0
    for name, run in runs.items():
        record = run.best
        assert record.config is not None
        assert record.score is not None
        own = field[record.config.config_id]
        paired = paired_hits(own.hits, best.hits, metric="top1")
        within += paired.difference >= -MARGIN
        lines.append(
            f"| {name} | {record.config.method} | {record.score.num_images} |"
            f" {record.score.value:.1f} % | {own.quality:.1f} % of {len(own.hits)} |"
            f" {paired.text} | {paired.p_value:.2f} |"
        )
    lines += ["", f"{within} of {len(runs)} within {MARGIN:g} point of the best."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
