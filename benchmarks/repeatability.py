"""How well a measured speed-up repeats: twice, with other load on the machine in between.

    python benchmarks/repeatability.py --minutes 60

The ratio of a compressed model to the uncompressed one is measured in turns (R M R), then other
programs keep the processor busy for the minutes given, then it is measured again. Printed: both
ratios and the difference in per cent; the bar is 2 %. `--load-while-measuring` leaves that many of
the other programs running during both measurements.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import platform
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from engine_cases import load  # of the benchmark beside this one

from autotok.api.models import compress
from autotok.devices.device import LocalDevice, measure_on
from autotok.devices.measurement import Measurement

BAR_PCT = 2.0
BUSY = (
    "import numpy as np\nrng = np.random.default_rng(0)\na = rng.random((600, 600))\n"
    "while True:\n    a = a @ a / 300.0\n    b = rng.random(4_000_000).sum()\n"
)
"""Products and passes over memory, as other programs do."""


def main(arguments: list[str] | None = None) -> float:
    """Print both ratios; the difference in per cent comes back."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    backbone = load(options.backbone)
    keep = {3: 0.7, 6: 0.5, 9: 0.35} if backbone.facts.num_blocks >= 12 else {1: 0.6}
    model = compress(backbone, method=options.method, keep=keep).eval()
    device = LocalDevice(options.runtime)
    print(f"{backbone.facts.name}, {options.method}, keep {keep}, batch {options.batch}")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with _load(options.load_while_measuring):
        first = measure_on(device, model, batch=options.batch)
        _tell("first", first)
    begin = time.monotonic()
    with _load(options.load):
        time.sleep(60.0 * options.minutes)
    apart = (time.monotonic() - begin) / 60.0
    with _load(options.load_while_measuring):
        second = measure_on(device, model, batch=options.batch)
        _tell("second", second)
    assert first.speedup is not None
    assert second.speedup is not None
    difference = 100.0 * (first.speedup / second.speedup - 1.0)
    latency = 100.0 * (second.latency_ms / first.latency_ms - 1.0)
    verdict = "within" if abs(difference) <= BAR_PCT else "BEYOND"
    print(
        f"{apart:.1f} minutes of {options.load} other programs apart: ratio {difference:+.2f} %"
        f" ({verdict} the bar of {BAR_PCT:g} %), latency alone {latency:+.2f} %"
    )
    return difference


def _tell(name: str, found: Measurement) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    print(
        f"{name:<7}{now}  ratio {1 / (found.speedup or 1.0):.4f}"
        f" +- {found.speedup_error_pct or 0.0:.2f} %, {found.latency_ms:.2f} ms"
        f" +- {found.spread_pct:.1f} %, {found.runs} runs{' prolonged' * found.prolonged},"
        f" {found.verdict}",
        flush=True,
    )


@contextlib.contextmanager
def _load(count: int) -> Iterator[None]:
    """Other programs at work meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--method", default="topk")
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--load", type=int, default=2, help="other programs in between")
    parser.add_argument("--load-while-measuring", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
