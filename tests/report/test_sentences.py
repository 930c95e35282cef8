"""The tables in words: a win within noise is a tie."""

import dataclasses
from typing import Any

import pytest
from evidence import final, hits, record

from autotok.metrics import metric_of
from autotok.report.points import Point, points_of
from autotok.report.sentences import (
    control_sentence,
    other_backbone_sentences,
    smaller_image_sentence,
    standing_sentences,
    tuning_sentence,
)
from autotok.searching.records.comparison import Comparisons, compare_front
from autotok.searching.records.final import Final
from autotok.searching.records.finetune_gain import tuning_gains
from autotok.searching.records.record import TrialRecord

TOP1 = metric_of("top1")
BEFORE, AFTER = "1" * 250 + "0" * 150, "1" * 320 + "0" * 80


def points(last: Final) -> list[Point]:
    return points_of({**vars(last), "comparisons": compare_front(last)})


def test_ties_are_called_ties_and_cheaper_ones_are_named() -> None:
    lines = standing_sentences(compare_front(final()), TOP1)
    assert lines[0].startswith("best against the uncompressed model: ")
    assert lines[0].endswith("a tie within noise")
    assert lines[1].startswith("best against the runner-up, fine-tuned topk at 1.840 GFLOPs: +")
    assert "evit at 1.240 GFLOPs, tie with the best at 54 % of its cost" in lines[2]
    assert standing_sentences(Comparisons(), TOP1) == []


def test_the_best_of_ties_is_said_to_be_the_nearest_to_the_uncompressed_model() -> None:
    last = final()
    far = {2: 0.0118, 5: 0.0231, 3: 0.001}  # the last is told from the best, two were fine-tuned
    front = []
    for r in last.front:
        assert r.score is not None
        front.append(
            dataclasses.replace(r, score=dataclasses.replace(r.score, kl=far.get(r.number)))
        )
    found = compare_front(dataclasses.replace(last, front=tuple(front), best=front[-1]))
    assert Comparisons.from_dict(found.to_dict()) == found
    assert (
        "chosen among 2 of the front that top-1 accuracy does not tell apart, as the nearest to the"
        " uncompressed model: KL divergence 0.0118, the next 0.0231"
    ) in standing_sentences(found, TOP1)


def of_backbone(found: TrialRecord, name: str) -> TrialRecord:
    assert found.config is not None
    return dataclasses.replace(found, config=dataclasses.replace(found.config, backbone=name))


def test_another_backbone_is_held_against_the_best_image_by_image() -> None:
    best = of_backbone(record(1, "tome", 2.0, hits(0.9)), "small")
    whole = of_backbone(record(-1001, "none", 2.6, hits(0.5), origin="reference"), "tiny")
    whole = dataclasses.replace(whole, feasible=False, violation=0.3)
    rival = of_backbone(record(4, "evit", 1.2, hits(0.7)), "tiny")
    alone = Final((best,), best, None, (), None, others=(whole,))
    (line,) = other_backbone_sentences(points(alone), TOP1)
    told = TOP1.text(whole.score.value if whole.score else None)
    assert line.startswith(f"other backbone, tiny: none, {told} at 2.600 GFLOPs, over the budget;")
    assert "the best differs by +" in line
    both = dataclasses.replace(alone, others=(whole, rival))
    (line,) = other_backbone_sentences(points(both), TOP1)
    told = TOP1.text(rival.score.value if rival.score else None)
    assert line.startswith(f"other backbone, tiny: evit, {told} at 1.200 GFLOPs; ")
    assert line.endswith("over 400 images, better")
    assert other_backbone_sentences(points(final()), TOP1) == []
    assert [p.name for p in points(both)] == ["tome on small", "none on tiny", "evit on tiny"]


def test_more_than_three_ties_are_counted() -> None:
    outcomes = hits(0.8)
    front = tuple(record(n, "tome", 0.5 + 0.1 * n, outcomes) for n in range(6))
    lines = standing_sentences(compare_front(Final(front, front[-1], None, (), None)), TOP1)
    assert lines[-1] == "2 more of the front tie with the best at a lower cost"


def test_the_control_is_compared_over_the_same_images() -> None:
    sentence = control_sentence(points(final()), TOP1)
    assert "difference +37.2 [+3" in sentence
    assert "TIE" not in sentence
    assert "NO BETTER" not in sentence


def test_a_best_that_beats_random_pruning_within_noise_only_is_called_out() -> None:
    outcomes = hits(0.8)
    best = record(1, "tome", 2.0, outcomes.replace("0", "1", 1))
    control = record(-2, "random", 2.0, outcomes, origin="control")
    sentence = control_sentence(points(Final((best,), best, control, (control,), None)), TOP1)
    assert "A TIE WITH RANDOM PRUNING: search longer or with more images" in sentence


def test_one_sentence_says_where_plug_in_suffices() -> None:
    helped = record(1, "tome", 0.8, AFTER, untuned=BEFORE)
    same = record(2, "topk", 1.9, AFTER, untuned=AFTER)
    worse = record(3, "evit", 1.2, BEFORE, untuned=AFTER)
    mixed = tuning_sentence(tuning_gains([helped, same, worse]), TOP1)
    assert "helped 1 of 3 configurations, most at 0.800 GFLOPs: +17.5 [" in mixed
    assert "plug-in suffices (within the noise of 400 images) from 1.900 GFLOPs up" in mixed
    assert "fine-tuning hurt at 1.200 GFLOPs" in mixed
    below = dataclasses.replace(same, number=9, costs=record(9, "topk", 0.4, AFTER).costs)
    scattered = tuning_sentence(tuning_gains([helped, below]), TOP1)
    assert "plug-in suffices (within the noise of 400 images) at 0.400 GFLOPs" in scattered
    every = tuning_sentence(tuning_gains([same, below]), TOP1)
    assert every.endswith("of 400 images) on all 2 configurations that were fine-tuned")
    alone = tuning_sentence(tuning_gains([same]), TOP1)
    assert alone.endswith("of 400 images) at 1.900 GFLOPs, the only one fine-tuned")
    few = record(5, "topk", 1.1, AFTER[:64], untuned=AFTER[:64])
    assert "noise of 64 to 400 images" in tuning_sentence(tuning_gains([same, few]), TOP1)
    assert tuning_sentence([], TOP1) == ""


def with_smaller_image(share: float, seed: int = 40) -> Final:
    found = record(-5, "none", 2.20, hits(share, seed=seed), origin="smaller image")
    assert found.config is not None
    config = dataclasses.replace(found.config, image_size=160)
    return dataclasses.replace(final(), smaller_image=dataclasses.replace(found, config=config))


def test_the_smaller_image_is_held_against_the_best_image_by_image() -> None:
    behind = smaller_image_sentence(points(with_smaller_image(0.6)), TOP1)
    assert behind.startswith("smaller images: the uncompressed model on 160 x 160 pixels: ")
    assert "at 2.200 GFLOPs; the best differs by +" in behind
    assert "SMALLER IMAGES" not in behind
    tie = smaller_image_sentence(points(with_smaller_image(0.865)), TOP1)
    assert "A TIE WITH SMALLER IMAGES: let the search choose" in tie
    lost = smaller_image_sentence(points(with_smaller_image(0.97)), TOP1)
    assert "NO BETTER THAN SMALLER IMAGES" in lost


def test_a_fine_tuned_best_is_told_beside_a_smaller_image_that_is_not() -> None:
    last = with_smaller_image(0.6)
    tuned = next(r for r in last.front if r.tuned is not None)
    line = smaller_image_sentence(points(dataclasses.replace(last, best=tuned)), TOP1)
    assert "the uncompressed model, not fine-tuned, on 160 x 160 pixels" in line


def test_why_there_is_no_smaller_image_is_told() -> None:
    line = smaller_image_sentence(points(final()), TOP1, "no time was left for it")
    assert line == "no control on smaller images: no time was left for it"
    assert smaller_image_sentence(points(final()), TOP1) == ""


def uneven(best: str, *others: str, origin: str = "control") -> list[Point]:
    """A best and what it is held against, each judged on images of its own number."""
    top = record(1, "tome", 2.0, best)
    against = tuple(record(-2 - i, "random", 2.0, o, origin=origin) for i, o in enumerate(others))
    if origin == "smaller image":
        (found,) = against
        assert found.config is not None
        config = dataclasses.replace(found.config, method="none", image_size=160)
        found = dataclasses.replace(found, config=config)
        return points(Final((top,), top, None, (), None, smaller_image=found))
    return points(Final((top,), top, against[0], against, None))


EASY, HARD = "1" * 40 + "0" * 60, "0" * 15 + "1" * 85


def test_better_over_the_same_images_is_better_whatever_the_means_say() -> None:
    # 40 % on all images, 100 % on those that the control was judged on, which has 70 %
    ahead = control_sentence(uneven(EASY, "1" * 28 + "0" * 12), TOP1)
    assert "difference +30.0 [" in ahead
    assert ahead.endswith("points over the 40 images both were judged on")
    ahead = smaller_image_sentence(uneven(EASY, "1" * 28 + "0" * 12, origin="smaller image"), TOP1)
    assert ahead.endswith("points over the 40 images both were judged on")


def test_worse_over_the_same_images_is_no_better_whatever_the_means_say() -> None:
    # 85 % on all images, 62.5 % on those that the control was judged on, which has 80 %
    behind = control_sentence(uneven(HARD, "1" * 32 + "0" * 8), TOP1)
    assert "difference -17.5 [" in behind
    assert "NO BETTER THAN RANDOM PRUNING" in behind
    behind = smaller_image_sentence(uneven(HARD, "1" * 32 + "0" * 8, origin="smaller image"), TOP1)
    assert "NO BETTER THAN SMALLER IMAGES" in behind


@pytest.mark.parametrize("name", ["own", "own_loss", "kl"])
def test_which_way_a_difference_without_a_unit_goes_is_said_as_it_is(name: str) -> None:
    metric = metric_of(name)

    def told(best: float) -> tuple[str, str]:
        first = Point("tome", 2.0, best, kind="best")
        control = Point("random", 2.0, 0.5, kind="random control")
        small = Point("none", 2.0, 0.5, kind="smaller image", image_size=160)
        return (
            control_sentence([first, control], metric),
            smaller_image_sentence([first, small], metric),
        )

    more = "better" if metric.higher_is_better else "worse"
    less = "worse" if metric.higher_is_better else "better"
    assert all(f"{'+' if more == 'better' else '-'}0.2000, for the {more}" in s for s in told(0.7))
    assert all(f"{'+' if less == 'better' else '-'}0.2000, for the {less}" in s for s in told(0.3))
    assert all("+0.0000; NO BETTER" in s for s in told(0.5))


def test_of_several_controls_the_nearest_over_the_same_images_is_told() -> None:
    # 50 % over 100 images, level with the best on 40 of these; or 70 % over the 40 alone
    line = control_sentence(uneven(EASY, "1" * 40 + "0" * 60, "1" * 28 + "0" * 12), TOP1)
    assert "best of 2 random prunings: 40.0 %" in line
    assert "difference +0.0" in line


def test_what_is_unusual_about_the_best_and_its_runner_up_is_said() -> None:
    def changed(found: TrialRecord, **config: Any) -> TrialRecord:
        assert found.config is not None
        return dataclasses.replace(found, config=dataclasses.replace(found.config, **config))

    best = changed(record(1, "none", 2.0, hits(0.9)), image_size=24)
    rival = changed(record(2, "evit", 1.0, hits(0.7)), number_format="int8")
    control = record(-2, "random", 2.0, hits(0.5), origin="control")
    last = Final((best, rival), best, control, (control,), None)
    assert control_sentence(points(last), TOP1).startswith("best: none (24 px), ")
    assert (
        "runner-up, evit (int8) at 1.000 GFLOPs" in standing_sentences(compare_front(last), TOP1)[0]
    )
    tuned = changed(record(1, "tome", 2.0, AFTER, untuned=BEFORE), number_format="int8")
    last = Final((tuned, rival), tuned, control, (control,), None)
    assert control_sentence(points(last), TOP1).startswith("best: tome (fine-tuned, int8), ")
    assert [p.mode_text for p in points(last)][:2] == ["fine-tuned, int8", "plug-in, int8"]


def test_why_there_is_no_random_pruning_is_told_beside_the_best() -> None:
    alone = points(dataclasses.replace(final(), controls=(), random_control=None))
    line = control_sentence(alone, TOP1, "it cannot be as cheap")
    assert line.startswith("best: tofu, ")
    assert line.endswith("2.280 GFLOPs; no random pruning beside it: it cannot be as cheap")
    assert control_sentence(alone, TOP1) == ""
