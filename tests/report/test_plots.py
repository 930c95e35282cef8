"""The Pareto picture."""

from pathlib import Path

import pytest
from PIL import Image

from autotok.metrics import metric_of
from autotok.report.plots import BASE, BEST, CONTROL, FRONT, TUNED, pareto_png
from autotok.report.points import Point

POINTS = [
    Point("tome", 1.8, 85.0, 81.0, 88.0, kind="front"),
    Point("topk", 2.2, 92.0, 88.0, 95.0, kind="best"),
    Point("none", 4.8, 94.0, 91.0, 96.0, kind="uncompressed"),
    Point("random", 2.2, 55.0, 50.0, 60.0, kind="random control"),
    *(Point("topk", 1.5 + i / 20, 60.0 + i, 55.0, 85.0) for i in range(12)),
    Point("evit", 2.0),
]


def colours(path: Path) -> set[str]:
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(image.width * image.height)
    assert found is not None
    return {"#{:02x}{:02x}{:02x}".format(*rgb) for _, rgb in found}


def test_the_picture_shows_front_best_control_and_uncompressed(tmp_path: Path) -> None:
    path = pareto_png(tmp_path / "p.png", POINTS, metric_of("top1"), limits={"macs": 2.3})
    with Image.open(path) as image:
        assert image.width >= 1000
    assert {FRONT, BEST, CONTROL, BASE} <= colours(path)


@pytest.mark.parametrize("points", [[], [Point("topk", 2.0, 50.0, kind="front")]])
def test_few_points_still_make_a_picture(tmp_path: Path, points: list[Point]) -> None:
    path = pareto_png(tmp_path / "p.png", points, metric_of("kl"), limits={"macs": 2.3})
    assert path.stat().st_size > 5_000
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_fine_tuned_points_carry_their_own_mark(tmp_path: Path) -> None:
    tuned = Point("tome", 1.2, 80.0, 75.0, 84.0, kind="front", mode="retrain", untuned=60.0)
    plain = pareto_png(tmp_path / "a.png", POINTS, metric_of("top1"))
    marked = pareto_png(tmp_path / "b.png", [*POINTS, tuned], metric_of("top1"))
    assert TUNED not in colours(plain)
    assert TUNED in colours(marked)


def test_labels_say_what_is_not_the_usual_number_format_or_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def noted(axes: object, labels: list[tuple[str, float, float]], **how: object) -> None:
        written.extend(text for text, *_ in labels)

    monkeypatch.setattr("autotok.report.plots.label_points", noted)
    small = Point("evit", 1.2, 80.0, 75.0, 84.0, kind="front", number_format="int8")
    shape = "2 blocks, heads 1, MLP 64"
    early = Point("none", 0.7, 60.0, 55.0, 65.0, kind="front", subnet=shape, exits="linear@1")
    pareto_png(tmp_path / "p.png", [*POINTS, small, early], metric_of("top1"))
    assert {"topk", "tome", "evit int8", "none 2 blocks exits"} == set(written)


def test_any_two_metrics_can_be_the_axes(tmp_path: Path) -> None:
    points = [
        Point(
            "topk", 2.0, 90.0, figures={"latency_ms": 4.0, "throughput_img_s": 250.0}, kind="best"
        ),
        Point(
            "tome", 1.0, 80.0, figures={"latency_ms": 5.0, "throughput_img_s": 200.0}, kind="front"
        ),
        Point("evit", 1.0, 80.0),  # its time is not known: left out
    ]
    limits = {"latency_ms": 4.5, "throughput_img_s": 180.0}
    x, y = metric_of("latency"), metric_of("throughput")
    path = pareto_png(tmp_path / "p.png", points, y, x=x, limits=limits)
    assert {FRONT, BEST} <= colours(path)
    for name in limits:  # each is a line of its own
        fewer = {k: v for k, v in limits.items() if k != name}
        other = pareto_png(tmp_path / f"{name}.png", points, y, x=x, limits=fewer)
        assert other.read_bytes() != path.read_bytes()
    nothing = colours(pareto_png(tmp_path / "q.png", points, y, x=metric_of("memory")))
    assert not {FRONT, BEST} & nothing
