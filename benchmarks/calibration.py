"""Calibrate this machine, then hold its target file against 100 configurations it has not seen.

    python benchmarks/calibration.py --output calibrated.yaml

At most 60 measurements and 5 minutes go into the target; unseen configurations are drawn with
another seed over three backbones and all methods, measured for about as long, and predicted from
the file as written. Peak memory is measured for some of them, each in a process of its own. The
uncompressed models, which take turns with everything measured, tell how much faster or slower the
machine has become since the calibration; figures are printed with that and without. With one thread
(OMP_NUM_THREADS=1) the clock is that thread's processor time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.compression.compress import compress_backbone
from autotok.devices.footprint import footprint
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.predicting.calibrate import CalibrationPlan, draw_candidates
from autotok.predicting.calibration import calibrate, plan_of
from autotok.predicting.calibration_run import CalibrationRun, Measured
from autotok.predicting.fitting import FitCheck, check
from autotok.predicting.measurers import InterleavedMeasurer
from autotok.predicting.predict import Prediction, predict_trace
from autotok.predicting.target import Target, load_target
from autotok.predicting.trace import trace

UNSEEN, SPARE, MEMORIES = 100, 5, 9


def predicted(row: Measured, target: Target) -> Prediction:
    """What the target file says of a measured configuration."""
    candidate = row.candidate
    model = compress_backbone(load_structure(candidate.backbone), candidate.config)
    return predict_trace(trace(model, batch=target.default_batch), target)


def memories(rows: list[Measured], guesses: list[Prediction]) -> FitCheck:
    """Predicted against measured peak memory of some of the rows."""
    seen = [
        footprint(
            row.candidate.backbone,
            row.candidate.config,
            batch=guess.batch,
            threads=torch.get_num_threads(),
        )
        for row, guess in zip(rows, guesses, strict=True)
    ]
    return check(np.array([g.peak_memory_mb for g in guesses]), np.array(seen))


def verdict(name: str, found: FitCheck) -> str:
    """One line of figures."""
    return (
        f"{name:12} {found.count} unseen configurations, {found.within_5_pct:.0f} % within 5 %,"
        f" {found.within_10_pct:.0f} % within 10 %, worst {found.worst_pct:.1f} %,"
        f" rank correlation {found.rank_correlation:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--measurements", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--unseen-seconds", type=float, default=330.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(tempfile.mkdtemp()) / "local.yaml")
    arguments = parser.parse_args()
    plan = plan_of(
        measurements=arguments.measurements, minutes=arguments.minutes, seed=arguments.seed
    )
    made = calibrate("local", output=arguments.output, plan=plan)
    print("\n".join(made.sentences()), flush=True)

    target = load_target(str(arguments.output))
    known = {
        (r.candidate.backbone, r.candidate.config)
        for r in (*made.found.fitted, *made.found.held_out)
    }
    drawn = draw_candidates(
        CalibrationPlan(plan.backbones, seed=arguments.seed + 1),
        UNSEEN + SPARE + len(plan.backbones),
    )
    fresh = [c for c in drawn[len(plan.backbones) :] if (c.backbone, c.config) not in known]
    reuse_large_blocks()
    run = CalibrationRun(
        InterleavedMeasurer(), plan.backbones, batch=plan.batch, seed=arguments.seed + 1
    )
    run.run(fresh[:UNSEEN], seconds=arguments.unseen_seconds)
    rows = run.rows()
    guesses = [predicted(row, target) for row in rows]
    latency = np.array([g.latency_ms for g in guesses]), np.array([r.latency_ms for r in rows])
    print(verdict("latency", check(*latency)))
    before = {r.candidate.backbone: r.reference_ms for r in made.found.fitted}
    drift = np.array([r.reference_ms / before[r.candidate.backbone] for r in rows])
    print(
        f"uncompressed models since the calibration: {np.round(np.unique(drift), 3)} of their time"
    )
    print(verdict("without that", check(latency[0], latency[1] / drift)))
    errors = 100 * (latency[0] / latency[1] - 1)
    for index in np.argsort(-np.abs(errors))[:10]:
        candidate = rows[index].candidate
        print(
            f"  {errors[index]:+6.1f} %  {latency[1][index]:7.1f} ms  {candidate.backbone}"
            f" {candidate.config.method}"
            f" {[(r.layer, r.num_keep) for r in candidate.config.reductions]}"
        )
    some = slice(0, MEMORIES)
    print(verdict("peak memory", memories(rows[some], guesses[some])))


if __name__ == "__main__":
    main()
