"""Copy a finished run of the default command into studies/default, with a README made from it.

autotok search --target jetson-nx --budget 2.3GFLOPs -o runs/default
python studies/record_default.py runs/default
"""

import shutil
import sys
from pathlib import Path

from autotok.metrics import metric_of
from autotok.report.headline import slower_sentence
from autotok.report.points import points_of
from autotok.report.run import Run
from autotok.report.sentences import (
    control_sentence,
    smaller_image_sentence,
    standing_sentences,
    tuning_sentence,
)
from autotok.report.sources import sources_of
from autotok.report.tables import plain_table

HERE = Path(__file__).parent / "default"
FILES = (
    "config.yaml",
    "env.json",
    "trials.csv",
    "pareto.csv",
    "pareto.json",
    "pareto.png",
    "best.yaml",
)


def main() -> None:
    run = Run(sys.argv[1])
    HERE.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(run.directory / name, HERE / name)
    (HERE / "README.md").write_text(page(run), encoding="utf-8")


def page(run: Run) -> str:
    found = run.records()
    points = points_of(found)
    metric = metric_of(found["best"].score.metric)
    target = run.config["question"]["target"]
    trials = run.trials
    evaluated = int((trials["state"] == "complete").sum())
    lines = [
        "# The default command, as run",
        "",
        "Question: what does `autotok search --target jetson-nx --budget 2.3GFLOPs` find on a fresh"
        " machine?",
        "",
        *table(points, metric, sources_of(target, found["front"], found["measuring"])),
        "",
        f"In one line: {control_sentence(points, metric)}.",
        "",
        *(f"- {line}" for line in told(points, found, metric)),
        "",
        f"{evaluated} different configurations were evaluated; every row of `pareto.csv` is"
        " inside the"
        " budget by the independent counter (column `within_budget`). Machine and versions:"
        " `env.json`. Latency and memory are predictions for the target, not measurements.",
        "",
        "![Pareto front](pareto.png)",
        "",
        "Recorded by `python studies/record_default.py RUN`.",
        "",
    ]
    return "\n".join(lines)


def told(points, found, metric):
    """Smaller images, what is slower, what is more than noise, and what fine-tuning bought."""
    comparisons = found["comparisons"]
    lines = [smaller_image_sentence(points, metric, found["no_smaller_image"])]
    lines += [slower_sentence(points), *standing_sentences(comparisons, metric)]
    return [line for line in [*lines, tuning_sentence(comparisons.tuning, metric)] if line]


def table(points, metric, sources):
    heads, rows = plain_table(points, metric, sources=sources)
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


if __name__ == "__main__":
    main()
