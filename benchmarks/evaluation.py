"""Images a second of an evaluation, in float32 and in the format that `--precision auto` chooses.

    python benchmarks/evaluation.py --images 24 --threads 1
    python benchmarks/evaluation.py --images 48 --threads 2 --batches 1,2,3,4,8

Both formats judge each image in turn, so that other load falls on both. Of every configuration:
images a second (medians), the ratio, images whose class is the same in both, quality against the
uncompressed model in either, for the error of a KL, what a float32 reference would have made of
it, and, with several threads, how many times faster the chosen format's evaluation is with a batch
in each thread than with all threads in one batch. With `--batches`, instead, images a second with
so many images in a batch, the fastest of three turns, in either format.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from unittest import mock

import torch
from torch import nn

from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.evaluation.accuracy import Evaluator, computing
from autotok.evaluation.allocator import reuse_large_blocks
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.precision import choose_format
from autotok.evaluation.reference_answers import divergences

STAGES = {3: 0.7, 6: 0.5, 9: 0.35}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="autoformer_demo")
    parser.add_argument("--data", default="demo")
    parser.add_argument("--methods", default="none,evit,tome,pitome,dpcknn")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batches", default="")
    asked = parser.parse_args()
    reuse_large_blocks()
    torch.set_num_threads(asked.threads)
    backbone = load_backbone(asked.backbone).eval()
    data = load_data(asked.data, backbone)
    chosen = choose_format(asked.precision, backbone, data, seed=0)
    if asked.batches:
        by_batch(asked, backbone, data, dict.fromkeys(("float32", chosen.precision)))
        return
    print(f"{asked.backbone}, {asked.images} images, {asked.threads} threads; {chosen.sentence}")
    if chosen.precision == "float32":
        print("so there is nothing to compare it with")
        return
    formats = ("float32", chosen.precision)
    judges = {name: Evaluator(backbone, data, metric="kl", precision=name) for name in formats}
    print(
        "method   float32  chosen  ratio  same class  KL float32  KL chosen  (float32 reference)"
        "  side by side"
    )
    for method, config in configurations(asked.methods):
        print(row(method, config, judges, formats, asked.images), flush=True)


def configurations(methods: str) -> Iterator[tuple[str, CompressionConfig]]:
    """Each method with the stages of this benchmark."""
    reductions = tuple(Reduction(layer, ratio) for layer, ratio in STAGES.items())
    for method in methods.split(","):
        yield method, CompressionConfig(method, () if method == "none" else reductions)


def by_batch(
    asked: argparse.Namespace, backbone: Backbone, data: DataSource, formats: Iterable[str]
) -> None:
    """A table of images a second by batch size, sizes taking turns."""
    sizes = [int(size) for size in asked.batches.split(",")]
    print(f"{asked.backbone}, {asked.images} images, {asked.threads} threads; images a second")
    print("method   format    " + "".join(f"{f'batch {size}':>10}" for size in sizes))
    for method, config in configurations(asked.methods):
        model = compress_backbone(backbone, config).eval()
        for name in formats:
            judges = [Evaluator(backbone, data, precision=name, batch_size=n) for n in sizes]
            best = [math.inf] * len(sizes)
            for _ in range(3):
                for at, judge in enumerate(judges):
                    start = time.perf_counter()
                    judge.evaluate(model, 0, asked.images)
                    best[at] = min(best[at], time.perf_counter() - start)
            rates = "".join(f"{asked.images / seconds:10.1f}" for seconds in best)
            print(f"{method:8} {name:9} {rates}", flush=True)


def row(
    method: str,
    config: CompressionConfig,
    judges: dict[str, Evaluator],
    formats: tuple[str, str],
    count: int,
) -> str:
    """One line of the table."""
    plain = judges["float32"]
    data, size = plain.data, plain.batch_size
    model = compress_backbone(plain.backbone, config).eval()
    seconds: dict[str, list[float]] = {name: [] for name in formats}
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in formats}
    kls: dict[str, list[float]] = {name: [] for name in (*formats, "mixed")}
    for first in range(0, count, size):
        images = data.batch(data.subset(first + size, 0)[first:])[0]
        for name in formats:
            judges[name].reference(first, first + size)
        for name in formats:
            start = time.perf_counter()
            with torch.inference_mode(), computing(images.device, name):
                outputs[name].append(model(images).float())
            seconds[name].append((time.perf_counter() - start) / len(images))
            kls[name] += judges[name].evaluate(model, first, first + size).kls
        whole = [plain.reference_output(first + i) for i in range(len(images))]
        kls["mixed"] += divergences(outputs[formats[1]][-1], torch.stack(whole)).tolist()
    a, b = (torch.cat(outputs[name]).argmax(dim=-1) for name in formats)
    rates = [1 / statistics.median(seconds[name]) for name in formats]
    ratio = statistics.median(x / y for x, y in zip(*seconds.values(), strict=True))
    means = [statistics.fmean(kls[name]) for name in (*formats, "mixed")]
    return (
        f"{method:8} {rates[0]:7.2f} {rates[1]:7.2f} {ratio:6.2f}  {int((a == b).sum()):4} of"
        f" {len(a):3} {means[0]:11.4f} {means[1]:10.4f} {means[2]:11.4f}"
        f" {side_by_side(judges[formats[1]], model, count):24.2f}"
    )


def side_by_side(judge: Evaluator, model: nn.Module, count: int) -> float:
    """Time of an evaluation one batch at a time over its time with one in each thread."""
    ratios = []
    for _ in range(3):
        judge.reference(0, count)
        start = time.perf_counter()
        judge.evaluate(model, 0, count)
        middle = time.perf_counter()
        with mock.patch("autotok.evaluation.accuracy.at_a_time", return_value=1):
            judge.evaluate(model, 0, count)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
