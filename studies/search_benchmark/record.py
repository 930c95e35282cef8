"""Record what many configurations of one model do to the same images; goes on where it was stopped.

    python studies/search_benchmark/record.py demo --minutes 60
    python studies/search_benchmark/record.py dinov2 --data PHOTOS --checkpoint FILE --minutes 60

Configurations: all methods of the default space with their published schedules, schedules drawn
from that space, and schedules as a user would write them, spread over the costs that there are.
All of them see the same few images before the next are begun, so that the table is of use whenever
the recording is stopped; a further recording with more `--images` adds to all. The first images are
timed one by one, with the uncompressed model in between, and times are divided by its time; of
the others, what precedes a first reduction is run once. A table keeps to the number format that
it was begun in.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import itertools
import json
import math
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import numpy as np
import torch
from recorded import read_rows

from autotok.compression.activations import Activations
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import AutotokError
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.files import write_text
from autotok.report.handover import environment
from autotok.searching.proposing.candidates import random_params
from autotok.searching.proposing.repair import repair
from autotok.searching.running.question import Question
from autotok.searching.running.session import Session, build_problem
from autotok.searching.space.problem import Problem
from autotok.searching.space.warm_starts import warm_starts

HERE = Path(__file__).parent
QUESTIONS = {
    "demo": Question(backbone="autoformer_demo", data="demo", budgets=("100%",), quality="kl"),
    "dinov2": Question(
        backbone="vit_small_patch14_dinov2", image_size=224, budgets=("100%",), quality="kl"
    ),
    "cifar": Question(
        backbone="vit_small_patch14_dinov2",
        image_size=112,
        data="cifar10",
        budgets=("100%",),
        quality="kl",
    ),
}
"""Of the others, data and weights are named at the start."""
DRAWN, WRITTEN, FRACTIONS = 58, 36, 6
"""Schedules of a method: drawn from the space, written by hand; costs of each published one."""
BLOCK = 8
EVERY = 25
"""Configurations between two runs of the uncompressed model."""


def choose(problem: Problem, seed: int) -> list[tuple[str, CompressionConfig]]:
    """(where it comes from, configuration), none twice; the first is the uncompressed model."""
    rng = np.random.default_rng(seed)
    found = {"": ("uncompressed", CompressionConfig())}

    def add(origin: str, config: CompressionConfig | None) -> bool:
        if config is None or not config.reductions or config.config_id in found:
            return False
        found[config.config_id] = origin, config
        return True

    methods = [m for m in problem.space.candidates(problem.facts) if m != "none"]
    for params in warm_starts(problem.space, problem.facts):
        shape = problem.space.decode(params, problem.facts)
        for step in range(FRACTIONS):
            add(
                "published", repair(shape, (step + rng.random()) / FRACTIONS * 0.97, problem).config
            )
    for method in [*methods, "random"]:
        for origin, number in (("space", DRAWN), ("written", WRITTEN)):
            if method == "random" and origin == "space":
                continue
            made = 0
            for _ in range(20 * number):
                drawn = _drawn if origin == "space" else written
                made += add(origin, drawn(method, problem, rng))
                if made == number:
                    break
    return list(found.values())


def _drawn(method: str, problem: Problem, rng: np.random.Generator) -> CompressionConfig | None:
    """A schedule of the space at a cost drawn evenly."""
    params = {**random_params(problem, rng)}
    while params["method"] != method:
        params = {**random_params(problem, rng)}
    try:
        shape = problem.space.decode(params, problem.facts)
        return repair(shape, 0.97 * float(rng.random()), problem).config
    except AutotokError:
        return None


def written(method: str, problem: Problem, rng: np.random.Generator) -> CompressionConfig | None:
    """One to three layers or all of them, each with a ratio of what enters it."""
    depth, total = problem.facts.num_blocks, problem.facts.num_patches
    stages = int(rng.integers(1, 5))
    layers = range(depth) if stages == 4 else rng.choice(depth, size=stages, replace=False)
    each = rng.uniform(0.85, 1.0) if stages == 4 else None
    left, reductions = 1.0, []
    for layer in sorted(int(i) for i in layers):
        left *= rng.uniform(0.3, 0.95) if each is None else each
        reductions.append(Reduction(layer, num_keep=max(1, round(left * total))))
    config = CompressionConfig(method, tuple(reductions))
    try:
        macs = problem.costs.cost(config).macs
    except AutotokError:
        return None
    return config if macs <= problem.costs.cost(CompressionConfig()).macs else None


@dataclass(frozen=True)
class Block:
    """One configuration on one block of images."""

    row: int
    config: str
    start: int
    timed: bool


@dataclass(frozen=True)
class Found:
    """What it did to them."""

    row: int
    start: int
    kl: list[float]
    right: list[int]
    slowness: float
    """nan where it was not timed."""


class Runner:
    """One process with the model and the images."""

    def __init__(self, question: Question) -> None:
        torch.set_num_threads(1)
        reuse_large_blocks()
        self.session: Session = build_problem(question)
        self._kept = Activations(self.session.backbone)
        evaluator = self.session.evaluator
        evaluator.batch_size = BLOCK // math.ceil(BLOCK / (evaluator.batch_size + 1))
        self._whole: dict[int, float] = {}
        self._since = 0

    def run(self, block: Block) -> Found:
        """Judge the images of a block."""
        evaluator, config = self.session.evaluator, CompressionConfig.from_json(block.config)
        evaluator.reference(block.start, block.start + BLOCK)
        slowness = self._slowness(config, block.start) if block.timed else math.nan
        evaluator.activations = self._kept
        model = compress_backbone(self.session.backbone, config)
        tally = evaluator.evaluate(model, block.start, block.start + BLOCK)
        right = [int(hit) for hit in tally.hits] or [-1] * BLOCK
        return Found(block.row, block.start, list(tally.kls), right, slowness)

    def _slowness(self, config: CompressionConfig, start: int) -> float:
        """Time over the uncompressed model's, which is timed again now and then."""
        if self._since == 0:
            self._whole = {}
        if start not in self._whole:
            self._whole[start] = self._time(CompressionConfig(), start)
        self._since = (self._since + 1) % EVERY
        return self._time(config, start) / self._whole[start]

    def _time(self, config: CompressionConfig, start: int) -> float:
        """Of the processor, as others may use it too."""
        evaluator = self.session.evaluator
        evaluator.activations = None
        model = compress_backbone(self.session.backbone, config)
        seconds = []
        for image in range(start, start + BLOCK):
            begin = time.process_time()
            evaluator.evaluate(model, image, image + 1)
            seconds.append(time.process_time() - begin)
        return statistics.median(seconds)


_RUNNER: list[Runner] = []


def _start(question: Question) -> None:
    _RUNNER.append(Runner(question))


def _run(block: Block) -> Found:
    return _RUNNER[0].run(block)


class Table:
    """The files of one recording."""

    def __init__(self, name: str, question: Question, images: int) -> None:
        self.folder = HERE / name
        session = build_problem(dataclasses.replace(question, precision=self._precision()))
        self.question, self._problem = session.question, session.problem
        self.rows = self._rows()
        self.kl = np.full((len(self.rows), images), np.nan, dtype=np.float16)
        self.right = np.full(self.kl.shape, -1, dtype=np.int8)
        self.slowness = np.full((len(self.rows), images // BLOCK), np.nan, dtype=np.float16)
        if (self.folder / "images.npz").exists():
            with np.load(self.folder / "images.npz", allow_pickle=False) as old:
                for key in ("kl", "right", "slowness"):
                    into, have = getattr(self, key), old[key]
                    width = min(have.shape[1], into.shape[1])
                    into[:, :width] = have[:, :width]

    def _rows(self) -> list[dict[str, object]]:
        path = self.folder / "configurations.jsonl.gz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            chosen = choose(self._problem, seed=0)
            rows = [{"origin": o, "config": json.loads(c.canonical)} for o, c in chosen]
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
        return read_rows(path)

    def _precision(self) -> str:
        """What the table was begun in; before tables said it, that was float32."""
        about = self.folder / "about.json"
        if not about.is_file():
            return "auto"
        found: str = json.loads(about.read_text(encoding="utf-8")).get("precision", "float32")
        return found

    def missing(self) -> Iterator[Block]:
        """Blocks still to be run: the first images of all, then the next. The uncompressed model
        comes first, then the others in random order."""
        order = [0, *(1 + np.random.default_rng(0).permutation(len(self.rows) - 1)).tolist()]
        for start in range(0, self.kl.shape[1], BLOCK):
            for row in order:
                if np.isnan(self.kl[row, start]):
                    config = json.dumps(self.rows[row]["config"])
                    yield Block(row, config, start, timed=start == 0)

    def _seen(self) -> list[str]:
        """How many images each configuration was judged on."""
        counts = (~np.isnan(self.kl)).sum(axis=1).tolist()
        return [f"{count} images" for count in counts]

    def take(self, found: Found) -> None:
        """Keep what one block gave."""
        images = slice(found.start, found.start + BLOCK)
        self.kl[found.row, images] = found.kl
        self.right[found.row, images] = found.right
        self.slowness[found.row, found.start // BLOCK] = found.slowness

    def save(self) -> None:
        """Write beside, then rename."""
        beside = self.folder / ".images.npz"
        np.savez_compressed(beside, kl=self.kl, right=self.right, slowness=self.slowness)
        os.replace(beside, self.folder / "images.npz")
        about = {
            "backbone": self.question.backbone,
            "data": Path(self.question.data).name,
            "image_size": self.question.image_size,
            "configurations": len(self.rows),
            "precision": self.question.precision,
            "judged_on": dict(sorted(Counter(self._seen()).items(), reverse=True)),
            "environment": environment(),
        }
        write_text(self.folder / "about.json", json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(QUESTIONS))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", help="of 'dinov2' and 'cifar': a folder of images")
    parser.add_argument("--checkpoint", help="of 'dinov2' and 'cifar': their weights")
    asked = parser.parse_args()
    end = time.monotonic() + 60.0 * asked.minutes
    named = {k: v for k in ("data", "checkpoint") if (v := getattr(asked, k)) is not None}
    question = dataclasses.replace(QUESTIONS[asked.name], **named)
    table = Table(asked.name, question, asked.images)
    saved = time.monotonic()
    waiting, done = table.missing(), 0
    with multiprocessing.get_context("spawn").Pool(
        asked.workers, initializer=_start, initargs=(table.question,)
    ) as pool:
        while time.monotonic() < end:
            part = list(itertools.islice(waiting, 8 * asked.workers))
            if not part:
                break
            for found in pool.imap_unordered(_run, part):
                table.take(found)
            done += len(part)
            if time.monotonic() - saved > 60.0:
                table.save()
                saved = time.monotonic()
    table.save()
    print(f"{done} blocks of {BLOCK} images; {sum(1 for _ in table.missing())} are left")


if __name__ == "__main__":
    main()
