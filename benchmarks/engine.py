"""Speed of every method in the engine, beside the uncompressed model and the slicing oracle.

    python benchmarks/engine.py [--methods tome topk ...] [--backbone vit_small_patch16_224]
        [--batch 1 16] [--schedule stages layers mild_stages strong_layers] [--minutes 60]
        [--turns 9] [--threads 1]
        [--clock processor] [--write benchmarks/engine.md]

The slicing oracle runs the same blocks on tokens that were simply sliced to the same counts: what
the reduction would cost if choosing were free. Its counts are those the method had when it ran, so
it is right for methods of any placement and for counts that differ between images.

Everything takes turns in one process (oracle, uncompressed, method, oracle, ...), each a few times
where it is short; a run is divided by the mean of those before and after it, and ratios are
medians over turns, with half the distance between quartiles behind them. The whole table ends
after about `--minutes`, shared evenly over what is left to do; a row has at least three turns, and
`--turns` at most. With one thread, time is that thread's on the processor (`--clock processor`),
which stays right when others use the machine (a neighbour still costs cache and clock speed).

Columns: `uncompressed` time over the uncompressed model's, `MACs` ratio, `oracle` time over the
oracle's, `memory` peak of live bytes as run over the uncompressed model's, `operators` extra ones
per reducing block: calls that are no views, in the reduction and in what it makes attention do,
beyond the uncompressed block's (first reduction, then the last). `--write` puts the table into a
file.

Weights are random: nothing timed here depends on them, except the counts of adaptive methods, whose
thresholds are found on the images timed, so that the counts asked for are met on average.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from engine_cases import BACKBONES, SCHEDULES, drawn_networks, fits, load
from engine_table import HEADER, Ratio, Row, written
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import autotok.methods  # noqa: F401
from autotok.backbones.base import Backbone
from autotok.compression.calibrate import calibrated, needs_calibration
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.counting.macs import cost, uncompressed
from autotok.counting.operators import OperatorClass, classify
from autotok.devices.board import machine_name, take_turns
from autotok.devices.interleaved import CLOCKS, clock_for, slot_of
from autotok.errors import AutotokError
from autotok.methods.base import Placement, TokenReducer
from autotok.methods.observing import Observing
from autotok.methods.registry import list_methods
from autotok.predicting.trace import LiveBytes
from autotok.tokens import Tokens

LEAST_TURNS = 3
OVERHEAD_SECONDS = 1.0  # of a row, for counting what it does


class Probe:
    """Replaces the steps of a model by ones that say when they begin and end."""

    def __init__(self, model: CompressedViT) -> None:
        self.model = model
        self.counts: list[int] = []
        """Patch tokens in attention and MLP of every block, then at the read-out."""
        self.steps: list[tuple[str, int]] = []
        """What ran, and its operators that are no views."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every step is noted while this is open."""
        backbone = self.model.backbone
        spots: list[tuple[Any, str]] = [(backbone, n) for n in ("attend", "feed", "readout")]
        reducers = list(self.model.reducers.values())
        spots += [(reducer, "reduce") for reducer in reducers]
        spots += [(r, "observe") for r in reducers if isinstance(r, Observing)]
        for owner, name in spots:
            setattr(owner, name, self._noting(name, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name in spots:
                delattr(owner, name)

    def _noting(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if name in ("attend", "feed", "readout"):
                tokens = next(a for a in args if isinstance(a, Tokens))
                self.counts.append(tokens.num_patches)
            with Operators() as seen:
                result = step(*args, **kwargs)
            self.steps.append((name, seen.count))
            return result

        return noted


class Operators(TorchDispatchMode):
    """Counts operators that are no views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += classify(func._overloadpacket.__name__) is not OperatorClass.VIEW
        return func(*args, **(kwargs or {}))


class SlicingOracle(nn.Module):
    """The backbone's own blocks on tokens sliced to given counts."""

    def __init__(self, backbone: Backbone, counts: list[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.counts = counts

    def forward(self, images: Tensor) -> Tensor:
        """Logits of whatever tokens come first."""
        backbone, counts = self.backbone, iter(self.counts)
        tokens = backbone.embed(images)[0]
        full = tokens
        for index in range(backbone.facts.num_blocks):
            tokens = sliced(tokens, next(counts), full)
            tokens = tokens.with_x(tokens.x + backbone.attend(index, tokens)[0])
            tokens = sliced(tokens, next(counts), full)
            tokens = tokens.with_x(tokens.x + backbone.feed(index, tokens))
        return backbone.readout(sliced(tokens, next(counts), full))


def sliced(tokens: Tokens, count: int, full: Tokens) -> Tokens:
    """The first `count` patch tokens; more than there are come from the embedding."""
    have, prefix = tokens.num_patches, tokens.num_prefix
    if count == have:
        return tokens
    x = tokens.x[:, : prefix + count]
    if count > have:
        x = torch.cat([x, full.x[:, prefix + have : prefix + count]], dim=1)
    coords = None if full.coords is None else full.coords[:, :count]
    return replace(tokens, x=x, coords=coords, raster=count == full.num_patches)


@dataclass(frozen=True)
class Patience:
    """How long, and by which clock, one row is measured."""

    clock: Callable[[], float]
    turns: int
    seconds: float = float("inf")


def compete(
    method: nn.Module, oracle: nn.Module, plain: nn.Module, images: Tensor, patience: Patience
) -> tuple[Ratio, Ratio, float, int]:
    """Time over the uncompressed model's, over the oracle's; milliseconds of the method; turns."""

    deadline = time.perf_counter() + patience.seconds
    slots = [
        slot_of(model, images, patience.clock, patience_s=patience.seconds / 8)
        for model in (method, oracle, plain)
    ]
    left = deadline - time.perf_counter()
    found = take_turns(slots, patience.turns, left, least=LEAST_TURNS, most=patience.turns)
    own = [lap for _, lap in found.own]

    def over(reference: int) -> Ratio:
        beside = [lap for _, lap in found.beside[reference::2]]
        before_after = zip(beside, beside[1:], own, strict=False)
        return Ratio.of([2 * mine / (before + after) for before, after, mine in before_after])

    return over(1), over(0), statistics.median(own), len(own)


def extra_operators(model: CompressedViT, images: Tensor) -> str:
    """Extra operators of the first and of the last reducing block."""
    bare, probe = Probe(compress_backbone(model.backbone, CompressionConfig())), Probe(model)
    with torch.no_grad():
        model(images)  # constants that are made once are none of a block's operators
        with bare.watching():
            bare.model(images)
        with probe.watching():
            model(images)
    usual = [n for name, n in bare.steps if name == "attend"]
    found: list[int] = []
    waiting, block, surplus = 0, 0, 0
    first = next(iter(model.reducers.values()))
    assert isinstance(first, TokenReducer)
    placement = first.placement
    for name, count in probe.steps:
        if name == "attend":
            surplus = count - usual[block]
            block += 1
            if waiting:
                found.append(waiting + surplus)
                waiting = 0
        elif name == "reduce" and placement in (Placement.BEFORE, Placement.BEFORE_BLOCKS):
            waiting = count
        elif name == "reduce":
            found.append(count + surplus)
    return f"{found[0]}-{found[-1]}" if found else "-"


class Peak(TorchDispatchMode):
    """Follows the bytes of what a forward makes, as it runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = LiveBytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, given = (
            [t for t in tree_leaves(tree) if isinstance(t, Tensor)]
            for tree in ((args, kwargs), result)
        )
        held = {t.untyped_storage()._cdata for t in taken}
        for tensor in given:
            if tensor.untyped_storage()._cdata not in held:
                self.memory.add(tensor)
        return result


@torch.no_grad()
def peak_ratio(model: CompressedViT, images: Tensor) -> float:
    """Peak of live bytes over the uncompressed model's, weights and images left out."""
    peaks = []
    for each in (model, model.backbone):
        with Peak() as peak:
            each(images)
        peaks.append(peak.memory.peak)
    return peaks[0] / peaks[1]


def measured(
    backbone: Backbone, schedule: str, method: str, images: Tensor, patience: Patience
) -> Row:
    """One method's row."""
    batch = images.shape[0]
    left = Row(backbone.facts.name, str(SCHEDULES[schedule].__doc__), batch, method)
    try:
        config = SCHEDULES[schedule](method, backbone.facts)
        model = compress_backbone(backbone, config).eval()
        if needs_calibration(config):
            model = calibrated(model, images).eval()
        probe = Probe(model)
        with torch.no_grad(), probe.watching():
            model(images)
    except AutotokError as error:
        return replace(left, note=str(error))
    oracle = SlicingOracle(backbone, probe.counts)
    with torch.inference_mode():
        plain, sliced_, ms, turns = compete(model, oracle, backbone, images, patience)
    return replace(
        left,
        plain=plain,
        macs=cost(backbone.facts, config).macs / uncompressed(backbone.facts).macs,
        oracle=sliced_,
        memory=peak_ratio(model, images),
        operators=extra_operators(model, images),
        ms=ms,
        turns=turns,
    )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list_methods())
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument(
        "--schedule", nargs="+", choices=list(SCHEDULES), default=["stages", "layers"]
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=list(CLOCKS), help="by default what suits the threads")
    parser.add_argument("--write", type=Path, help="a .md or .csv file for the table")
    args = parser.parse_args(argv)
    args.clock = args.clock or clock_for(torch.device("cpu"), args.threads)
    return args


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    args = arguments(argv)
    with drawn_networks():
        tables(args)


def tables(args: argparse.Namespace) -> None:
    """All of what was asked for."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    conditions = (
        f"{machine_name()}, {args.threads} thread(s), {args.clock} clock, at most {args.turns}"
        f" turns, {args.minutes:g} minutes in all, torch {torch.__version__}."
    )
    deadline = time.perf_counter() + 60 * args.minutes
    parts = list(itertools.product(args.backbone, args.schedule, args.batch))
    names = {schedule: [m for m in args.methods if fits(m, schedule)] for schedule in args.schedule}
    waiting = sum(len(names[schedule]) for _, schedule, _ in parts)
    rows: list[Row] = []
    for name, schedule, batch in parts:
        backbone = load(name)
        print(f"\n{name}, {SCHEDULES[schedule].__doc__} Batch {batch}. {conditions}\n{HEADER}")
        images = torch.randn(batch, *backbone.facts.image_shape)
        for method in names[schedule]:
            share = (deadline - time.perf_counter()) / waiting
            patience = Patience(CLOCKS[args.clock], args.turns, share - OVERHEAD_SECONDS)
            rows.append(measured(backbone, schedule, method, images, patience))
            print(rows[-1], flush=True)
            waiting -= 1
            if args.write:
                written(args.write, rows, conditions)


if __name__ == "__main__":
    main()
