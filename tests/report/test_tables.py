"""The closing table."""

import dataclasses
import io

from rich.console import Console

from autotok.evaluation.paired import paired_hits, paired_means
from autotok.metrics import metric_of
from autotok.report.points import Point
from autotok.report.sentences import control_sentence
from autotok.report.sources import Sources
from autotok.report.tables import closing_table, plain_table, tuning_table
from autotok.searching.records.finetune_gain import TuningGain

POINTS = [
    Point(
        "tome", 2.25, 90.0, 86.0, 93.0, 256, (3, 6), (420, 210), kind="front", within_budget=True
    ),
    Point(
        "topk",
        2.2,
        92.0,
        88.0,
        95.0,
        256,
        (3,),
        (200,),
        kind="best",
        figures={"latency_ms": 12.345},
    ),
    Point("none", 4.8, 94.0, 91.0, 96.0, 256, kind="uncompressed", feasible=False),
    Point("random", 2.2, 55.0, 50.0, 60.0, 256, (2,), (220,), kind="random control"),
]
TOP1 = metric_of("top1")


def test_the_uncompressed_model_comes_first_and_then_the_costliest() -> None:
    _, rows = plain_table(POINTS, TOP1)
    assert [row[1] for row in rows] == ["none", "tome", "topk", "random"]


def test_headings_name_units_and_where_latency_came_from() -> None:
    heads, rows = plain_table(POINTS, TOP1, sources=Sources("predicted for jetson-nx"))
    assert "GFLOPs (1e9 MACs)" in heads
    assert "latency ms (predicted for jetson-nx)" in heads
    assert not any(head.startswith("peak memory") for head in heads)
    best = dict(zip(heads, rows[2], strict=True))
    assert best["latency ms (predicted for jetson-nx)"] == "12.35"
    assert best["top-1 accuracy (95 % interval)"] == "92.0 [88.0, 95.0] %"
    assert best["of uncompressed"] == "97.9 %"
    assert best["feasible"] == "yes"
    assert [row[-1] for row in rows] == ["over budget", "yes, counted", "yes", "yes"]


def test_where_some_rows_were_measured_each_cell_says_what_it_is() -> None:
    sources = Sources("predicted for x, unchecked", "predicted", "measured on ssh://me@board")
    measured = dataclasses.replace(POINTS[1], origin="measured", within_budget=True)
    guessed = dataclasses.replace(POINTS[0], figures={"latency_ms": 13.0})
    heads, rows = plain_table([measured, guessed], TOP1, sources=sources)
    column = heads.index("latency ms (predicted for x, unchecked; or measured on ssh://me@board)")
    assert [row[column] for row in rows] == ["13.00 predicted", "12.35 measured"]
    assert [row[-1] for row in rows] == ["yes, counted", "yes, counted, measured"]
    over = dataclasses.replace(measured, over=True, within_budget=False, feasible=False)
    assert plain_table([over], TOP1)[1][0][-1] == "over budget"
    heads, rows = plain_table([measured], TOP1, sources=sources)
    assert rows[0][heads.index("latency ms (measured on ssh://me@board)")] == "12.35"


def test_a_share_of_a_divergence_is_not_shown() -> None:
    points = [Point("none", 4.8, 0.0, kind="uncompressed"), Point("topk", 2.2, 0.1)]
    heads, _ = plain_table(points, metric_of("kl"))
    assert "of uncompressed" not in heads
    assert any("less is better" in head for head in heads)


def test_the_table_is_drawn_with_names_that_look_like_markup() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(closing_table([Point("[red]method", 1.0, 50.0)], TOP1))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "[red]method" in text
    assert "1.000" in text


def test_eighty_columns_tell_a_front_row_from_the_uncompressed_model() -> None:
    whole = Point("none", 2.14, 94.8, 92.1, 96.5, 400, kind="uncompressed")
    smaller = Point("none", 1.23, 36.2, 31.7, 41.1, 400, kind="smaller image", image_size=24)
    early = Point("none", 0.71, 42.2, 37.5, 47.1, 400, kind="front", exits="linear+global-2@0,2")
    pruned, thin = (
        Point("pitome", 0.3, 41.2, 36.5, 46.1, 400, (0, 1), (8, 4), subnet=shape, kind="front")
        for shape in ("2 blocks, heads 1, MLP 64", "2 blocks, heads 2-3, MLP 64")
    )
    points = [whole, smaller, early, pruned, dataclasses.replace(thin, number_format="int8")]
    heads, rows = plain_table(points, TOP1, wide=False)
    assert [row[heads.index("method")] for row in rows] == [
        "none",
        "none (24 px)",
        "none (exits linear+global-2@0,2)",
        "pitome (2 blocks, heads 1, MLP 64)",
        "pitome (2 blocks, heads 2-3, MLP 64, int8)",
    ]
    file = io.StringIO()
    Console(file=file, width=80).print(closing_table(points, TOP1, wide=False))
    assert max(map(len, file.getvalue().splitlines())) == 80
    assert "24 px" in file.getvalue()
    heads, rows = plain_table(points, TOP1)
    mode = dict(zip(heads, rows[-1], strict=True))["mode"]
    assert mode == "plug-in, 2 blocks, heads 2-3, MLP 64, int8"
    assert control_sentence([dataclasses.replace(pruned, kind="best")], TOP1, "none").startswith(
        "best: pitome (2 blocks, heads 1, MLP 64), 41.2 % at 0.3"
    )


def test_an_empty_table_has_no_rows() -> None:
    assert plain_table([], TOP1)[1] == []


def test_modes_and_ties_stand_in_the_table() -> None:
    tie = paired_hits("1101", "1110")
    points = [dataclasses.replace(POINTS[0], mode="retrain", against_best=tie), *POINTS[1:]]
    heads, rows = plain_table(points, TOP1)
    tome, none = dict(zip(heads, rows[1], strict=True)), dict(zip(heads, rows[0], strict=True))
    assert (tome["mode"], none["mode"]) == ("fine-tuned", "-")
    assert tome["against the best (points)"].startswith("tie, +0.0 [")
    assert "against the best (points)" not in plain_table(POINTS, TOP1)[0]


def test_what_fine_tuning_bought_is_a_table_with_units() -> None:
    gain = paired_hits("1" * 90 + "0" * 10, "1" * 60 + "0" * 40)
    found = TuningGain(7, "x", "tome", 0.88, 90.0, 200, 3200, 60.0, 90.0, gain)
    heads, (row,) = tuning_table([found], TOP1)
    cells = dict(zip(heads, row, strict=True))
    assert cells["plug-in"] == "60.0 %"
    assert cells["points per minute"] == "+20.0"
    assert cells["minutes"] == "1.50"
    assert cells["verdict"] == "fine-tuning helped"
    kl = dataclasses.replace(
        found, gain=paired_means([0.1, 0.2], [0.3, 0.3]), plugged=0.3, tuned=0.15
    )
    heads, (row,) = tuning_table([kl], metric_of("kl"))
    assert dict(zip(heads, row, strict=True))["less KL divergence per minute"] == "+0.1000"
    blind = TuningGain(7, "x", "tome", None, 0.0, 200, 3200)
    assert tuning_table([blind], TOP1)[1][0][2:6] == ["-", "-", "-", "-"]


def test_a_share_is_of_what_the_uncompressed_model_has_on_the_same_images() -> None:
    # 30 of 40 images right, where the uncompressed model has 36 of these and 56 of all 100
    own, whole = "1" * 30 + "0" * 10, "1" * 36 + "0" * 4 + "1" * 20 + "0" * 40
    base = Point("none", 4.8, 56.0, num_images=100, kind="uncompressed")
    early = Point("tome", 2.2, 75.0, num_images=40, kind="front")
    compared = dataclasses.replace(early, against_reference=paired_hits(own, whole))
    heads, rows = plain_table([base, compared], TOP1)
    assert [row[heads.index("of uncompressed")] for row in rows] == ["100.0 %", "83.3 %"]
    heads, rows = plain_table([base, early], TOP1)  # nobody compared the two
    assert [row[heads.index("of uncompressed")] for row in rows] == ["100.0 %", "-"]
    longer = dataclasses.replace(early, quality=56.0, num_images=100)
    found = dataclasses.replace(longer, against_reference=paired_hits(whole, own))
    assert found.share_of(dataclasses.replace(base, quality=75.0, num_images=40)) == 36 / 30
