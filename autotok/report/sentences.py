"""What the tables mean, in sentences; a win within noise is called a tie."""

from __future__ import annotations

from collections.abc import Sequence

from autotok.evaluation.paired import Paired
from autotok.metrics import METRICS, Metric
from autotok.searching.records.comparison import Comparisons, Standing
from autotok.searching.records.finetune_gain import HELPED, HURT, SUFFICES, TuningGain

from .points import Point, gflops

CAUTION = (
    "A tie means that the 95 % interval of the difference over the same images contains zero, not"
    " that the two are equal. Each interval is for one comparison: the best was chosen on these"
    " images, so its lead over the others is flattered if anything."
)
MAX_TIES = 3
KL = METRICS["kl"]


def control_sentence(points: Sequence[Point], metric: Metric, why_not: str = "") -> str:
    """Best against the best random pruning within its cost, in one sentence, or why that control is
    not there; '' without a best, or where neither is known."""
    best = next((p for p in points if p.kind == "best" and p.quality is not None), None)
    controls = [p for p in points if p.kind == "random control" and p.quality is not None]
    if best is None or best.quality is None:
        return ""
    told = f"best: {best.called}, {metric.text(best.quality)} at {gflops(best.macs_g)} GFLOPs"
    if not controls:
        return f"{told}; no random pruning beside it: {why_not}" if why_not else ""
    near = [p for p in controls if p.macs_g <= best.macs_g * 1.02] or controls
    control = _nearest_rival(near, metric)
    gain, difference, tie = _held_against(best, control, metric)
    warning = "; NO BETTER THAN RANDOM PRUNING" if gain <= 0 else ""
    warning = "; A TIE WITH RANDOM PRUNING" if tie and gain > 0 else warning
    advice = ": search longer or with more images" if warning else ""
    pruning = f"best of {len(controls)} random prunings" if len(controls) > 1 else "random pruning"
    return (
        f"{told}; {pruning}: {metric.text(control.quality)} at"
        f" {gflops(control.macs_g)} GFLOPs; difference {difference}{_leaning(gain, metric)}"
        f"{_over_images(best, control)}{warning}{advice}"
    )


def _nearest_rival(points: Sequence[Point], metric: Metric) -> Point:
    """The one that comes nearest to the best, or is ahead of it by most: over the same images,
    where all were compared so; means over different images say nothing of each other."""
    sign = 1 if metric.higher_is_better else -1
    if all(p.against_best is not None for p in points):
        return max(points, key=lambda p: p.against_best.difference if p.against_best else 0.0)
    return max(points, key=lambda p: sign * (p.quality or 0.0))


def _held_against(best: Point, control: Point, metric: Metric) -> tuple[float, str, bool]:
    """(how much better the best is, the same in words, whether noise alone separates the two):
    over the same images where the two were compared so."""
    if control.against_best is not None:
        paired = control.against_best.reversed
        return paired.difference, paired.text, paired.verdict == "tie"
    sign = 1 if metric.higher_is_better else -1
    gain = sign * ((best.quality or 0.0) - (control.quality or 0.0)) + 0.0  # of -0.0, 0.0
    return gain, f"{gain:+.{metric.digits}f}", False


def _leaning(gain: float, metric: Metric) -> str:
    """What follows a difference, positive where the best is better: its unit, or which way it goes
    where more of the metric need not be better."""
    if metric.unit == "%":
        return " points"
    return "" if gain == 0 else f", for the {'better' if gain > 0 else 'worse'}"


def _over_images(best: Point, control: Point) -> str:
    """Over which images a difference is, where the two figures beside it are over others."""
    if control.against_best is None or best.num_images == control.num_images:
        return ""
    return f" over the {control.against_best.num_images} images both were judged on"


def smaller_image_sentence(points: Sequence[Point], metric: Metric, why_not: str = "") -> str:
    """Best against the uncompressed model on smaller images, in one sentence, or why that control
    is not there; '' where neither is known."""
    best = next((p for p in points if p.kind == "best" and p.quality is not None), None)
    control = next((p for p in points if p.kind == "smaller image"), None)
    if control is None or best is None or best.quality is None or control.quality is None:
        return f"no control on smaller images: {why_not}" if why_not else ""
    gain, difference, tie = _held_against(best, control, metric)
    warning = "; NO BETTER THAN SMALLER IMAGES" if gain <= 0 else ""
    warning = "; A TIE WITH SMALLER IMAGES" if tie and gain > 0 else warning
    alone = not best.backbone  # several backbones are searched at their own sizes
    advice = ": let the search choose among image sizes too (--image-sizes)"
    advice = advice if warning and alone else ""
    tuned = ", not fine-tuned," if best.retrained else ""
    return (
        f"smaller images: the uncompressed model{tuned} on {control.image_size} x"
        f" {control.image_size} pixels: {metric.text(control.quality)} at"
        f" {gflops(control.macs_g)} GFLOPs; the best differs by {difference}"
        f"{_leaning(gain, metric)}"
        f"{_over_images(best, control)}{warning}{advice}"
    )


def other_backbone_sentences(points: Sequence[Point], metric: Metric) -> list[str]:
    """Best against the best of every other backbone, or where nothing of that is inside the budget,
    against it uncompressed."""
    best = next((p for p in points if p.kind == "best"), None)
    kinds = ("front", "other backbone")
    others = [p for p in points if p.kind in kinds and p.quality is not None]
    lines = []
    for name in dict.fromkeys(p.backbone for p in others):
        if best is None or name == best.backbone:
            continue
        own = [p for p in others if p.backbone == name]
        inside = [p for p in own if p.feasible and not p.over]
        rival = _nearest_rival(inside or own, metric)
        over = "" if inside else ", over the budget"
        what = f"{rival.method} ({rival.details})" if rival.details else rival.method
        told = "" if rival.against_best is None else _told(rival.against_best.reversed, metric)
        lines.append(
            f"other backbone, {name}: {what}, {metric.text(rival.quality)} at"
            f" {gflops(rival.macs_g)} GFLOPs{over};"
            f" the best differs by {told or 'an unknown amount'}"
        )
    return lines


def standing_sentences(found: Comparisons, metric: Metric) -> list[str]:
    """The best against the uncompressed model and its runner-up, and what ties with it for less."""
    best, rival = found.best, found.runner_up
    lines = []
    if best is not None and best.against_reference is not None:
        lines.append(
            f"best against the uncompressed model: {_told(best.against_reference, metric)}"
        )
    if best is not None and best.against_next is not None and rival is not None:
        told = _told(best.against_next, metric)
        lines.append(f"best against the runner-up, {_name(rival)}: {told}")
    if best is not None and found.ties:
        next_kl = min(s.divergence or 0.0 for s in found.ties)
        lines.append(
            f"chosen among {1 + len(found.ties)} of the front that {metric.brief} does not tell"
            f" apart, as the nearest to the uncompressed model: {KL.brief}"
            f" {KL.text(best.divergence)}, the next {KL.text(next_kl)}"
        )
    ties = found.cheaper_ties
    for tie in ties[:MAX_TIES]:
        assert tie.against_best is not None
        lines.append(
            f"cheaper, within noise: {_name(tie)}, {tie.words}"
            f" ({tie.against_best.text} {metric.gain_unit})"
        )
    if len(ties) > MAX_TIES:
        lines.append(f"{len(ties) - MAX_TIES} more of the front tie with the best at a lower cost")
    return lines


def tuning_sentence(gains: Sequence[TuningGain], metric: Metric) -> str:
    """Where plug-in suffices and where fine-tuning pays, in one sentence; '' without a gain."""
    known = sorted((g for g in gains if g.gain is not None), key=lambda g: g.macs_g or 0.0)
    if not known:
        return ""
    of = {
        verdict: [g for g in known if g.verdict == verdict] for verdict in (HELPED, SUFFICES, HURT)
    }
    parts = []
    if of[HELPED]:
        most = max(of[HELPED], key=lambda g: g.gain.difference if g.gain else 0.0)
        assert most.gain is not None
        all_of = "every one" if len(of[HELPED]) == len(known) > 1 else f"{len(of[HELPED])}"
        parts.append(
            f"fine-tuning helped {all_of} of {len(known)} configurations, most at"
            f" {_gflops(most)}: {most.gain.text} {metric.gain_unit} for {most.minutes:.1f} minutes"
        )
    if of[SUFFICES]:
        threshold = _threshold(known)
        if len(of[SUFFICES]) == len(known):
            where = f"on all {len(known)} configurations that were fine-tuned"
            where = where if len(known) > 1 else f"at {_gflops(known[0])}, the only one fine-tuned"
        elif threshold is not None:
            where = f"from {_gflops(threshold)} up"
        else:
            where = "at " + ", ".join(_gflops(g) for g in of[SUFFICES])
        parts.append(f"plug-in suffices (within the noise of {_images(of[SUFFICES])}) {where}")
    if of[HURT]:
        parts.append("fine-tuning hurt at " + ", ".join(_gflops(g) for g in of[HURT]))
    return "; ".join(parts)


def _threshold(known: Sequence[TuningGain]) -> TuningGain | None:
    """The cheapest from which on plug-in suffices throughout, and below which it never does."""
    flags = [g.verdict == SUFFICES for g in known]
    first = flags.index(True)
    return known[first] if all(flags[first:]) else None


def _images(gains: Sequence[TuningGain]) -> str:
    """On how many images the gains rest, from the fewest to the most."""
    counts = sorted({g.gain.num_images for g in gains if g.gain is not None})
    return f"{counts[0]} images" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} images"


def _told(paired: Paired, metric: Metric) -> str:
    words = {"better": "better", "worse": "worse", "tie": "a tie within noise"}[paired.verdict]
    return f"{paired.text} {metric.gain_unit} over {paired.num_images} images, {words}"


def _name(standing: Standing) -> str:
    cost = "" if standing.macs_g is None else f" at {gflops(standing.macs_g)} GFLOPs"
    where = f" on {standing.backbone}" if standing.backbone else ""
    more = f" ({standing.details})" if standing.details else ""
    return f"{'fine-tuned ' if standing.finetuned else ''}{standing.method}{more}{where}{cost}"


def _gflops(gain: TuningGain) -> str:
    return f"{gflops(gain.macs_g or 0.0)} GFLOPs"
