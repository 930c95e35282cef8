"""The report: one offline file."""

import dataclasses
import re
from pathlib import Path

from autotok.evaluation.paired import paired_hits
from autotok.metrics import metric_of
from autotok.report.html import Report, write_report
from autotok.report.plots import pareto_png
from autotok.report.points import Point
from autotok.report.run_maps import KeptMap
from autotok.report.sentences import control_sentence
from autotok.searching.records.comparison import Comparisons, Standing
from autotok.searching.records.finetune_gain import TuningGain

TOP1 = metric_of("top1")
POINTS = [
    Point("topk", 2.2, 92.0, 88.0, 95.0, 256, (3,), (200,), kind="best"),
    Point("none", 4.8, 94.0, 91.0, 96.0, 256, kind="uncompressed", feasible=False),
    Point("random", 2.21, 55.0, 50.0, 60.0, 256, kind="random control"),
    Point("random", 2.9, 80.0, 75.0, 84.0, 256, kind="random control"),
    Point("evit", 2.0, 50.0),
]
REPORT = Report(
    title="autotok <demo>",
    command="autotok search --budget '2.3GFLOPs' & echo <script>alert(1)</script>",
    points=POINTS,
    metric=TOP1,
    budget="2.3 GFLOPs",
    environment={"torch": "2.<b>9</b>"},
    checks={"onnx": "agrees with torch"},
    config_yaml="method: topk",
)


def test_best_is_compared_with_random_pruning_of_its_own_cost() -> None:
    sentence = control_sentence(POINTS, TOP1)
    assert "best: topk, 92.0 % at 2.200 GFLOPs" in sentence
    assert "random prunings: 55.0 % at 2.210 GFLOPs" in sentence
    assert "difference +37.0 points" in sentence
    assert control_sentence(POINTS[:2], TOP1) == ""


def test_a_best_that_random_pruning_equals_is_called_out() -> None:
    worse = [dataclasses.replace(POINTS[0], quality=50.0), *POINTS[1:]]
    assert "NO BETTER THAN RANDOM PRUNING" in control_sentence(worse, TOP1)
    assert "NO BETTER" not in control_sentence(POINTS, TOP1)


def test_less_divergence_counts_in_favour_of_the_best() -> None:
    points = [
        Point("topk", 2.0, 0.1, kind="best"),
        Point("random", 2.0, 0.4, kind="random control"),
    ]
    assert "difference +0.3000" in control_sentence(points, metric_of("kl"))


def test_the_report_is_one_offline_file_with_its_picture(tmp_path: Path) -> None:
    picture = pareto_png(tmp_path / "pareto.png", POINTS, TOP1)
    text = write_report(tmp_path / "report.html", REPORT, picture=picture).read_text()
    assert "data:image/png;base64," in text
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert "1 more evaluated configurations are in trials.csv" in text
    for words in ("92.0 [88.0, 95.0] %", "difference +37.0 points", "How to reproduce", "agrees"):
        assert words in text


def test_every_string_from_outside_is_escaped(tmp_path: Path) -> None:
    points = [dataclasses.replace(POINTS[0], method="<img src=x>")]
    report = dataclasses.replace(REPORT, points=points)
    text = write_report(tmp_path / "report.html", report).read_text()
    assert "<script>" not in text
    assert "<img src=x>" not in text
    assert "<b>9" not in text
    assert "&lt;script&gt;" in text


def test_a_run_without_results_still_has_a_report(tmp_path: Path) -> None:
    report = dataclasses.replace(REPORT, points=[])
    assert "Nothing was evaluated" in write_report(tmp_path / "r.html", report).read_text()


def test_the_report_says_what_is_noise_and_what_fine_tuning_bought(tmp_path: Path) -> None:
    gain = paired_hits("1" * 90 + "0" * 10, "1" * 60 + "0" * 40)
    tie = paired_hits("110", "101")
    comparisons = Comparisons(
        (
            Standing(1, "a", "best", "topk", 2.2, False, 1.0, tie, None, tie, 2),
            Standing(2, "b", "front", "<b>tome", 1.1, True, 0.5, tie, tie),
        ),
        (TuningGain(1, "a", "topk", 2.2, 120.0, 200, 3200, 60.0, 90.0, gain),),
    )
    report = dataclasses.replace(REPORT, comparisons=comparisons)
    text = write_report(tmp_path / "r.html", report).read_text()
    for words in (
        "More than noise?", "a tie within noise", "tie with the best at 50 % of its cost",
        "not that the two are equal", "<h2>Fine-tuning</h2>", "+15.0", "fine-tuning helped",
        "&lt;b&gt;tome",
    ):  # fmt: skip
        assert words in " ".join(text.split()), words
    assert "<b>tome" not in text


def test_a_run_without_comparisons_has_neither_section(tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.html", REPORT).read_text()
    assert "More than noise?" not in text
    assert "Fine-tuning" not in text


def test_the_page_begins_with_the_best_beside_the_uncompressed_model(tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.html", REPORT).read_text()
    assert "width=device-width" in text
    first = text.index("92.0 %")
    assert text.index("uncompressed 94.0") > first
    assert text.index("uncompressed 94.0") < text.index("Configurations")
    assert text.index("autotok search --budget") < text.index("Configurations")


def test_token_maps_are_embedded_and_their_captions_escaped(tmp_path: Path) -> None:
    maps = [KeptMap("a <b> photo", b"\x89PNG")]
    report = dataclasses.replace(REPORT, maps=maps, maps_summary="much is held")
    text = write_report(tmp_path / "r.html", report).read_text()
    assert "Where the tokens went" in text
    assert "Much is held." in text
    assert "a &lt;b&gt; photo" in text
    assert "<b> photo" not in text
    assert "Where the tokens went" not in write_report(tmp_path / "q.html", REPORT).read_text()


def test_a_row_says_its_headings_where_a_phone_shows_it_as_a_card(own_run: Path) -> None:
    page = (own_run / "report.html").read_text("utf-8")
    table = page.split("<table class='rows'>")[1].split("</table>")[0]
    heads = re.findall(r"<th>(.*?)</th>", table)
    rows = [re.findall(r'data-head="(.*?)"', row) for row in table.split("<tr")[2:]]
    assert len(rows) > 1
    assert all(row == heads for row in rows)
