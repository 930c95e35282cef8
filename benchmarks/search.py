"""Proposals against plain Optuna's, on recorded configurations of real models.

    python benchmarks/search.py [--seeds 10] [--evaluations 100] [demo@2.3GFLOPs demo@1.5GFLOPs ...]
    python benchmarks/search.py live:dinov2-112@70% --data PHOTOS --checkpoint FILE --keep ANSWERS

Every proposal is answered by the most similar configuration of its method that was recorded (see
studies/search_benchmark) inside the budget: its exact cost, and its mean KL divergence from the
uncompressed model over 24 images. `demo@50%:64` takes other images, from the 64th on. What is
compared is the hypervolume under cost, up to that of the uncompressed model, and KL, up to guessing
blindly, as a share of the whole rectangle. A problem that begins with `live:` runs the model, so
that every configuration has its own cost and quality; `--keep` names a file of answers, to go on
where it was stopped. Printed are medians with quartiles over seeds, and the
p-value of Wilcoxon's signed-rank test of `auto` against the best of the others.

`auto`, `tpe`, `nsgaii` and `random` propose in autotok's space; the same names with `user:` are
what twenty lines of Optuna do: a method, one to three layers or all of them, a ratio at each, the
budget as a constraint; proposals outside the budget are told so and not counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost
from autotok.errors import AutotokError
from autotok.evaluation.accuracy import Tally
from autotok.searching.records.pareto import hypervolume
from autotok.searching.running.loop import REFERENCE
from autotok.searching.running.opening import open_search
from autotok.searching.space.budget import parse_budgets
from autotok.searching.space.problem import Problem, budgets_of
from autotok.searching.space.settings import FidelityPlan, SearchSettings
from autotok.searching.space.space_file import load_space

sys.path.insert(0, str(Path(__file__).parents[1] / "studies" / "search_benchmark"))

from recorded import Recorded

if TYPE_CHECKING:
    from live import Live

SHOWN = (5, 10, 20, 30, 50, 100)
IMAGES = 24
REPORTED = ["demo@2.3GFLOPs", "demo@1.5GFLOPs", "demo@2.3GFLOPs:64", "cifar@50%", "dinov2@70%"]
LIVE, USER = "live:", "user:"
ALGORITHMS = ("auto", "tpe", "nsgaii", "random", "user:tpe", "user:nsgaii", "user:random")
Point = tuple[float, float]
"""(cost over the uncompressed model's, KL)."""


@dataclass(frozen=True)
class Task:
    """A recorded model, a budget, and the images that configurations are judged on."""

    name: str
    table: Recorded | Live
    budget: str
    first: int

    @classmethod
    def parse(cls, text: str, asked: argparse.Namespace) -> Task:
        """Of `[live:]model@budget[:first image]`."""
        name, _, rest = text.removeprefix(LIVE).partition("@")
        budget, _, first = rest.partition(":")
        images = int(first or 0) + IMAGES
        if not text.startswith(LIVE):
            return cls(text, Recorded.load(name, images), budget or "50%", int(first or 0))
        from live import Live  # with torch

        given = {"data": asked.data, "checkpoint": asked.checkpoint, "kept": asked.keep}
        return cls(text, Live(name, images, **given), budget or "50%", int(first or 0))

    @property
    def images(self) -> range:
        """Positions of the images."""
        return range(self.first, self.first + IMAGES)

    @cached_property
    def blind(self) -> float:
        """KL that counts as nothing learnt."""
        return self.table.blind(self.images)

    @property
    def limit(self) -> float:
        """The budget in multiply-accumulates."""
        return budgets_of(parse_budgets(self.budget), self.table.facts)[0].limit

    def answer(self, config: CompressionConfig) -> Point:
        """What it costs and loses."""
        macs, kls = self.table.answer(config, self.limit)
        return macs / self.table.whole, float(kls[list(self.images)].mean())

    def judge(self, config: CompressionConfig, start: int, stop: int) -> Tally:
        """What autotok's loop is told."""
        kls = self.table.answer(config, self.limit)[1][list(self.images[start:stop])]
        return Tally(
            metric="kl",
            num_images=len(kls),
            num_compared=len(kls),
            kl_sum=float(kls.sum()),
            kl_squares=float(np.square(kls).sum()),
            kls=tuple(kls.tolist()),
        )

    def problem(self) -> Problem:
        """For autotok's own loop."""
        facts = self.table.facts
        return Problem(
            facts=facts,
            space=load_space("default"),
            budgets=budgets_of(parse_budgets(self.budget), facts),
            evaluate=self.judge,
            total_images=IMAGES,
            metric="kl",
        )

    @property
    def known(self) -> str:
        """What the best can be, where that is known."""
        if not isinstance(self.table, Recorded):
            return "every configuration is run"
        points = self.table.inside(self.limit, self.images)
        return f"best of the {len(self.table.configs)} recorded {self.volume(points):.3f}"

    def volume(self, points: list[Point]) -> float:
        """Share of the rectangle under the front of points."""
        return hypervolume(np.array(points), np.array([1.0, self.blind])) / self.blind


def ours(task: Task, sampler: str, seed: int, evaluations: int) -> tuple[list[Point], float]:
    """(points in order, seconds of a proposal) of autotok's loop."""
    problem, found, spent = task.problem(), [], 0.0
    settings = SearchSettings(n_trials=evaluations, seed=seed, sampler=sampler)
    with tempfile.TemporaryDirectory() as folder:
        plan = FidelityPlan(IMAGES, IMAGES, IMAGES)
        search = open_search(settings, problem, f"{folder}/study.log", plan=plan)
        search.tallies[REFERENCE] = task.judge(CompressionConfig(), 0, IMAGES)
        while len(found) < evaluations:
            begin = time.perf_counter()
            job = search.ask()
            if job is None:
                break
            spent += time.perf_counter() - begin
            found.append(task.answer(job.config))
            search.advance(job.number, problem.evaluate(job.config, 0, IMAGES), 0.0)
        search.proposals.close()
    return found, spent / max(1, len(found))


def by_user(task: Task, sampler: str, seed: int, evaluations: int) -> tuple[list[Point], float]:
    """The same of what a user would write with Optuna."""
    makers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constraints_func=_constraints),
        "nsgaii": lambda: optuna.samplers.NSGAIISampler(seed=seed, constraints_func=_constraints),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=makers[sampler]())
    found: list[Point] = []
    spent = 0.0
    for _ in range(50 * evaluations):
        begin = time.perf_counter()
        trial = study.ask()
        config = suggested(trial, task)
        spent += time.perf_counter() - begin
        try:
            macs = float(cost(task.table.facts, config).macs)
        except AutotokError:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        trial.set_user_attr("over", macs / task.limit - 1.0)
        if macs > task.limit:
            study.tell(trial, (macs / task.table.whole, task.blind))
            continue
        point = task.answer(config)
        study.tell(trial, point)
        found.append(point)
        if len(found) == evaluations:
            break
    return found, spent / max(1, len(found))


def _constraints(trial: optuna.trial.FrozenTrial) -> tuple[float]:
    return (float(trial.user_attrs.get("over", 1.0)),)


def suggested(trial: optuna.Trial, task: Task) -> CompressionConfig:
    """A configuration of a user's space."""
    facts = task.table.facts
    methods = load_space("default").candidates(facts)
    method = trial.suggest_categorical("method", methods)
    where = trial.suggest_categorical("where", ("1", "2", "3", "all"))
    if where == "all":
        ratio = trial.suggest_float("ratio_all", 0.7, 1.0)
        stages = [(layer, ratio) for layer in range(facts.num_blocks)]
    else:
        layers = [
            trial.suggest_int(f"layer_{i}", 0, facts.num_blocks - 1) for i in range(int(where))
        ]
        ratios = [trial.suggest_float(f"ratio_{i}", 0.2, 1.0) for i in range(int(where))]
        stages = sorted(dict(zip(layers, ratios, strict=True)).items())
    left, reductions = 1.0, []
    for layer, ratio in stages:
        left *= ratio
        reductions.append(Reduction(layer, num_keep=max(1, round(left * facts.num_patches))))
    return CompressionConfig(method, tuple(reductions))


def curve(task: Task, points: list[Point], evaluations: int) -> NDArray[np.float64]:
    """(evaluations,) hypervolume after each; a search that ended keeps its last."""
    volumes = [task.volume(points[: i + 1]) for i in range(len(points))]
    return np.array(volumes + volumes[-1:] * (evaluations - len(volumes)))


def search_once(task: Task, evaluations: int, job: tuple[str, int]) -> tuple[list[Point], float]:
    """What one algorithm finds with one seed."""
    name, seed = job
    warnings.filterwarnings("ignore", module="optuna")
    run = by_user if name.startswith(USER) else ours
    return run(task, name.removeprefix(USER), seed, evaluations)


def compare(
    task: Task, seeds: int, evaluations: int, algorithms: list[str], pool: Executor
) -> list[str]:
    """The table of one task as lines of Markdown."""
    shown = [n for n in SHOWN if n <= evaluations]
    jobs = list(itertools.product(algorithms, range(seeds)))
    each = pool.map if isinstance(task.table, Recorded) else map  # a model is there once
    found = dict(zip(jobs, each(partial(search_once, task, evaluations), jobs), strict=True))
    curves, seconds = {}, {}
    for name in algorithms:
        results = [found[name, seed] for seed in range(seeds)]
        curves[name] = np.array([curve(task, points, evaluations) for points, _ in results])
        seconds[name] = float(np.median([spent for _, spent in results]))
    lines = [
        f"{task.name}: {task.known}, images {task.images.start}-{task.images.stop - 1}",
        "",
        f"| evaluations | {' | '.join(map(str, shown))} | ms a proposal |",
        "|---" * (len(shown) + 2) + "|",
    ]
    for name, rows in curves.items():
        cells = []
        for n in shown:
            low, middle, high = np.percentile(rows[:, n - 1], [25, 50, 75])
            cells.append(f"{middle:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} | {1e3 * seconds[name]:.0f} |")
    if "auto" in curves and len(curves) > 1:
        lines.append(f"| p, auto above the best other | {' | '.join(_p_values(curves, shown))} | |")
    return [*lines, ""]


def _p_values(curves: dict[str, NDArray[np.float64]], shown: list[int]) -> list[str]:
    cells = []
    for n in shown:
        others = {name: rows[:, n - 1] for name, rows in curves.items() if name != "auto"}
        rival = max(others, key=lambda name: float(np.median(others[name])))
        gain = curves["auto"][:, n - 1] - others[rival]
        p = 1.0 if not gain.any() else float(wilcoxon(gain, alternative="greater").pvalue)
        cells.append(f"{p:.3f} ({rival})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=REPORTED)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--data", help="images of a live problem")
    parser.add_argument("--checkpoint", help="weights of a live problem")
    parser.add_argument("--keep", type=Path, help="file of a live problem's answers")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of recorded problems")
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.workers) as pool:
        for text in asked.tasks:
            try:
                task = Task.parse(text, asked)
                names = asked.algorithms.split(",")
                lines = compare(task, asked.seeds, asked.evaluations, names, pool)
            except (AutotokError, ValueError) as error:  # a table that is not there, or too thin
                sys.exit(f"{text}: {error}")
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
