"""Evolutionary search over a supernet's subnets on real images, kept in a folder, resumable.

`candidates.jsonl` gets one line per subnet as soon as its fitness is known, so nothing is ever
computed twice; at the end `candidates.csv` and `result.json` say it again for people.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autotok.backbones.autoformer import SupernetSpec, subnet_facts
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.config import SubnetSpec
from autotok.counting.cost import Cost
from autotok.counting.macs import uncompressed
from autotok.errors import ConfigError, InfeasibleBudget, NonFiniteOutput, RunDirectoryError
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.data import DataSource
from autotok.files import replacing, write_text

from .evolution import Evolution, EvolutionSettings, SubnetCandidate
from .judge import SubnetScore, score_subnets

log = logging.getLogger(__name__)
OnProgress = Callable[[float, str], None]
LOG, TABLE, RESULT = "candidates.jsonl", "candidates.csv", "result.json"


@dataclass(frozen=True)
class Constraint:
    """Which subnets may be tried: {metric of `Cost`: (least, most)}, both ends included."""

    spec: SupernetSpec
    limits: Mapping[str, tuple[float, float]]

    def cost(self, subnet: SubnetSpec) -> Cost:
        """Exact cost of a subnet."""
        return uncompressed(subnet_facts(self.spec, subnet, name="autoformer"))

    def __call__(self, subnet: SubnetSpec) -> bool:
        """Whether the subnet meets every limit."""
        cost = self.cost(subnet)
        return all(low <= getattr(cost, m) <= high for m, (low, high) in self.limits.items())

    def check(self) -> None:
        """Raise `InfeasibleBudget` where not even the smallest or largest subnet is inside."""
        small, large = self.cost(self.spec.smallest()), self.cost(self.spec.largest())
        for metric, (low, high) in self.limits.items():
            least, most = getattr(small, metric), getattr(large, metric)
            if low > high:
                raise ConfigError(
                    f"limits on {metric} ask for at least {low:,.0f} and at most {high:,.0f};"
                    " lower the one or raise the other"
                )
            if high < least or low > most:
                asked, end = (
                    (f"at most {high:,.0f}", f"smallest has {least:,}")
                    if high < least
                    else (f"at least {low:,.0f}", f"largest has {most:,}")
                )
                raise InfeasibleBudget(
                    f"no subnet has {asked} {metric}: the {end}; ask for that or change the limit"
                )


@dataclass(frozen=True)
class SearchPlan:
    """What a search is told besides the supernet and the images."""

    settings: EvolutionSettings
    limits: Mapping[str, tuple[float, float]]
    images: int
    """Of the training split, behind every fitness."""
    final_images: int
    """Of the validation split, for the final evaluation."""
    finalists: int
    about: Mapping[str, Any]
    """Plain data that a resumed search must share: backbone, data, weights."""
    timeout_s: float | None = None
    """Of the evolution; the final evaluation follows."""

    @property
    def question(self) -> dict[str, Any]:
        """Everything that fitness and course depend on."""
        settings = {k: v for k, v in vars(self.settings).items() if k != "generations"}
        limits = {metric: list(pair) for metric, pair in self.limits.items()}
        return {**self.about, "settings": settings, "limits": limits, "images": self.images}


@dataclass
class SubnetSearch:
    """A search in its folder."""

    supernet: AutoFormerSupernet
    name: str
    default: SubnetSpec
    plan: SearchPlan
    train: DataSource
    val: DataSource
    folder: Path
    on_progress: OnProgress | None = None

    @cached_property
    def constraint(self) -> Constraint:
        """The limits on cost."""
        return Constraint(self.supernet.spec, self.plan.limits)

    def view(self, subnet: SubnetSpec) -> SupernetView:
        """A subnet on the shared weights."""
        return SupernetView(self.supernet, subnet, name=self.name).eval()

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.view(self.default), self.train, metric="top1")

    def fitness(self, subnet: SubnetSpec) -> float:
        """Top-1 in percent on the first images of the training split."""
        try:
            tally = self._evaluator.evaluate(self.view(subnet), 0, self.plan.images)
        except NonFiniteOutput as error:
            log.warning("%s; its fitness is 0", error)
            return 0.0
        return tally.quality().value

    def evolve(self, resume: bool) -> Evolution:
        """The evolution, run to its end or to the time limit."""
        self.constraint.check()
        known = _open_log(self.folder, self.plan.question, resume)
        total = self.plan.settings.population * self.plan.settings.generations
        started = time.monotonic()
        evolution = Evolution(
            self.supernet.spec,
            self.plan.settings,
            legal=self.constraint,
            fitness=self.fitness,
            known=known,
        )

        def note(candidate: SubnetCandidate) -> None:
            self._append(candidate)
            best, done = evolution.best()[0], len(evolution.tried)
            used = time.monotonic() - started
            limit = self.plan.timeout_s
            share = max(done / total, used / limit if limit else 0.0)
            self._say(
                0.9 * min(1.0, share),
                f"generation {candidate.generation}: {done} subnets, best {best.fitness:.1f} %,"
                f" last {candidate.fitness:.1f} % ({candidate.origin})",
            )

        def late() -> bool:
            limit = self.plan.timeout_s
            over = limit is not None and time.monotonic() - started > limit
            return over and bool(evolution.tried)

        evolution.on_candidate, evolution.stop = note, late
        evolution.run()
        if not evolution.tried:
            raise InfeasibleBudget(
                "no subnet within the limits was found by drawing at random; widen the limits"
            )
        return evolution

    def final_evaluation(self, evolution: Evolution) -> list[SubnetScore]:
        """The fittest, then the default subnet, on validation images; the best finalist first."""
        finalists = {
            f"g{c.generation}/{c.index}": c.subnet for c in evolution.best(self.plan.finalists)
        }
        subnets = {**finalists, "default": self.default}
        scores = score_subnets(
            self.supernet,
            self.name,
            subnets,
            self.val,
            dict.fromkeys(subnets, self.plan.final_images),
            on_progress=lambda share, text: self._say(0.9 + 0.1 * share, text),
        )
        ranked = sorted(scores[:-1], key=lambda s: (-s.top1_pct, s.macs_g))
        return [*ranked, scores[-1]]

    def write(self, evolution: Evolution, scores: list[SubnetScore]) -> dict[str, Any]:
        """What was found, now also in `candidates.csv` and `result.json`."""
        with replacing(self.folder / TABLE) as path:
            with path.open("w", newline="", encoding="utf-8") as file:
                rows = [self._row(candidate) for candidate in evolution.tried]
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        fit = {c.subnet: c.fitness for c in evolution.tried}
        finalists = [
            {
                **score.to_dict(),
                "train_top1_pct": fit.get(score.subnet),
                "within_limits": self.constraint(score.subnet),
            }
            for score in scores
        ]
        result = {
            **self.plan.question,
            "generations": 1 + max(c.generation for c in evolution.tried),
            "num_evaluated": len(evolution.tried),
            "final_images": scores[0].num_images,
            "best": finalists[0],
            "finalists": finalists[:-1],
            "default": finalists[-1],
        }
        write_text(self.folder / RESULT, json.dumps(result, indent=1))
        return result

    def _append(self, candidate: SubnetCandidate) -> None:
        line = {
            "embed_dim": candidate.subnet.embed_dim,
            "heads": list(candidate.subnet.heads),
            "mlp_ratios": list(candidate.subnet.mlp_ratios),
            "generation": candidate.generation,
            "index": candidate.index,
            "origin": candidate.origin,
            "fitness": candidate.fitness,
        }
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _row(self, candidate: SubnetCandidate) -> dict[str, Any]:
        cost, subnet = self.constraint.cost(candidate.subnet), candidate.subnet
        return {
            "generation": candidate.generation,
            "index": candidate.index,
            "origin": candidate.origin,
            "train_top1_pct": round(candidate.fitness, 4),
            "macs_g": cost.macs_g,
            "params_m": cost.params_m,
            "embed_dim": subnet.embed_dim,
            "depth": subnet.depth,
            "heads": " ".join(map(str, subnet.heads)),
            "mlp_ratios": " ".join(f"{r:g}" for r in subnet.mlp_ratios),
        }

    def _say(self, share: float, text: str) -> None:
        if self.on_progress is not None:
            self.on_progress(share, text)


def evolve_subnets(search: SubnetSearch, *, resume: bool = False) -> dict[str, Any]:
    """What an evolutionary search found: evolution, final evaluation, files.

    Raises:
        InfeasibleBudget: no subnet meets the limits.
        RunDirectoryError: the folder holds a search and `resume` was not given, or another search.
    """
    evolution = search.evolve(resume)
    return search.write(evolution, search.final_evaluation(evolution))


def check_unused(folder: Path, *, resume: bool) -> None:
    """Raise `RunDirectoryError` where a folder holds a search that is not to be gone on with."""
    if not resume and (folder / LOG).exists():
        raise RunDirectoryError(
            f"'{folder}' holds a subnet search already; go on with --resume, or choose another"
            " folder"
        )


def _open_log(folder: Path, question: Mapping[str, Any], resume: bool) -> dict[SubnetSpec, float]:
    """Fitness values that are there already; the log's first line is the question."""
    path = folder / LOG
    plain = json.loads(json.dumps(question))
    if not path.exists():
        write_text(path, json.dumps(plain) + "\n")
        return {}
    check_unused(folder, resume=resume)
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]  # a killed process may have left half a line
    if whole != text:
        write_text(path, whole)
    try:
        before, *lines = [json.loads(line) for line in whole.splitlines()]
        changed = [key for key in plain if before.get(key) != plain[key]]
        known = {
            SubnetSpec(line["embed_dim"], line["heads"], line["mlp_ratios"]): float(line["fitness"])
            for line in lines
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"'{path}' is damaged ({type(error).__name__}: {error}); start in another folder"
        ) from error
    if changed:
        raise RunDirectoryError(
            f"'{folder}' holds a search with another '{changed[0]}'; ask the same again to resume"
            " it, or choose another folder"
        )
    return known
