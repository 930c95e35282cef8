"""The recommended configuration against the uncompressed model: what a report says first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotok.metrics import METRICS, Metric
from autotok.searching.records.record import MEASURED

from .points import Point
from .sources import Sources

LATENCY, MEMORY, COST = METRICS["latency_ms"], METRICS["peak_memory_mb"], METRICS["macs"]


@dataclass(frozen=True)
class HeadlineFigure:
    """One figure, and what it is to be compared with."""

    label: str
    value: str
    against: str
    alarming: bool = False


def best_and_base(points: Sequence[Point]) -> tuple[Point | None, Point | None]:
    """The recommended configuration and the uncompressed model, where there are such."""
    kinds = {p.kind: p for p in points}
    return kinds.get("best"), kinds.get("uncompressed")


def slower_sentence(points: Sequence[Point]) -> str:
    """That the best takes more time than the uncompressed model, in one sentence; '' where it does
    not, or nobody knows."""
    best, base = best_and_base(points)
    if best is None or base is None or not _slower(best, base):
        return ""
    times = speed_up(best, base)
    assert times is not None
    own, other = (LATENCY.text(p.value(LATENCY)) for p in (best, base))
    told = f"the best is {best.origin} at {own}, the uncompressed model at {other},"
    if _timed_in_turns(best):
        told = f"timed in turns with the uncompressed model{_noise(best)}, the best takes"
    return (
        f"SLOWER THAN UNCOMPRESSED: {told} {1 / times:.2f} times as long; few FLOPs"
        " are not few milliseconds: where time counts, ask for it, such as --budget 70%latency"
    )


def speed_up(best: Point, base: Point) -> float | None:
    """How many times as fast the best is as the uncompressed model; None where nobody knows.

    Where the best is measured, as its own measurement says, which ran the two in turns: two
    readings taken at different times, or a reading and a prediction, say nothing of each other.
    """
    if _timed_in_turns(best):
        return best.speedup or None
    own, other = best.value(LATENCY), base.value(LATENCY)
    if not own or not other or best.origin != base.origin:
        return None
    return other / own


def headline(points: Sequence[Point], metric: Metric, sources: Sources) -> list[HeadlineFigure]:
    """Quality, cost, latency, speed-up and memory of the best beside the uncompressed model's."""
    best, base = best_and_base(points)
    if best is None:
        return []
    figures = [
        _figure(metric, best, base, ""),
        _figure(COST, best, base, "", label="cost", unit="GFLOPs"),
        _figure(LATENCY, best, base, _source(best, sources.latency, sources)),
    ]
    speed = _speed_up(best, base)
    figures += [] if speed is None else [speed]
    figures.append(_figure(MEMORY, best, base, _source(best, sources.memory, sources)))
    return [figure for figure in figures if figure.value != "-"]


def _figure(
    metric: Metric, best: Point, base: Point | None, source: str, *, label: str = "", unit: str = ""
) -> HeadlineFigure:
    own, other = best.value(metric), None if base is None else base.value(metric)
    written = metric.number(own)
    value = written if written == "-" else f"{written} {unit or metric.unit}".strip()
    parts = []
    if other is not None and base is not None:
        share = f" ({100 * own / other:.0f} % of it)" if own is not None and other > 0 else ""
        if metric.kind == "judged":
            ratio = best.share_of(base)
            share = "" if ratio is None else f" ({100 * ratio:.0f} % of it)"
            if best.num_images != base.num_images and ratio is not None:
                share = f" ({100 * ratio:.0f} % of it over the same images)"
        if metric is LATENCY and _timed_in_turns(best):
            share = f", {base.origin} at another time"
        elif metric in (LATENCY, MEMORY) and best.origin != base.origin:
            share = f", {base.origin}"
        parts.append(f"uncompressed {metric.number(other)}{share}")
    parts += [source] if source else []
    worse = metric is LATENCY and base is not None and _slower(best, base)
    return HeadlineFigure(label or metric.label, value, "; ".join(parts), worse)


def _speed_up(best: Point, base: Point | None) -> HeadlineFigure | None:
    times = None if base is None else speed_up(best, base)
    if times is None or base is None:
        return None
    slower = _slower(best, base)
    told = "slower than uncompressed" if slower else "against uncompressed"
    told += ", timed in turns" if _timed_in_turns(best) else ""
    told += _noise(best)
    return HeadlineFigure(f"{best.origin} speed-up", f"{times:.2f} times", told, slower)


def _timed_in_turns(best: Point) -> bool:
    return best.origin == MEASURED and best.speedup is not None


def _noise(best: Point) -> str:
    """The verdict on its measurement, where that was not steady."""
    return f" ({best.reading})" if best.reading not in ("", "steady") else ""


def _slower(best: Point, base: Point) -> bool:
    times = speed_up(best, base)
    return times is not None and times < 1.0


def _source(best: Point, predicted: str, sources: Sources) -> str:
    return sources.measured if best.origin == "measured" else predicted
