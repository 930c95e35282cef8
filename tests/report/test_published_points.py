"""Published points of the same backbone: which, and when they are shown unasked."""

import pytest

from autotok.methods.evidence import published_methods, published_results
from autotok.metrics import metric_of
from autotok.report.interactive import front_figures
from autotok.report.points import Point
from autotok.report.published_points import PUBLISHED_AS, references

TOP1, MACS = metric_of("top1"), metric_of("macs")
AXES = (MACS, TOP1)


def test_they_are_the_rows_of_the_table_with_both_figures() -> None:
    rows = [row for method in published_methods() for row in published_results(method)]
    both = [r for r in rows if r.backbone == "DeiT-S" and r.gflops and r.top1_pct]
    found = references("deit_small_patch16_224", "/images", TOP1, AXES).points
    assert [(p.method, p.macs_g, p.quality) for p in found] == [
        (r.method, r.gflops, r.top1_pct) for r in both
    ]
    assert all(p.kind == "published" and p.source and not p.number for p in found)
    assert "ToFe" in " ".join(p.source for p in found)


def test_every_backbone_that_is_named_has_some() -> None:
    for name in PUBLISHED_AS:
        assert references(name, "/images", TOP1, AXES).points, name


@pytest.mark.parametrize(
    ("backbone", "some"),
    [
        ("deit_small_patch16_224.fb_in1k", True),
        ("hf:facebook/deit-small-patch16-224", True),
        ("vit_small_patch16_224.augreg_in21k_ft_in1k", True),
        ("vit_small_patch16_224.dino", False),
        ("autoformer_demo", False),
    ],
)
def test_a_name_means_the_backbone_of_the_tables_or_none(backbone: str, some: bool) -> None:
    assert bool(references(backbone, "/images", TOP1, AXES).points) == some


def test_they_are_off_where_axes_or_images_are_others_and_gone_where_top1_was_not_judged() -> None:
    def shown(data: str, *axes: str) -> bool:
        x, y = map(metric_of, axes)
        return references("deit_small_patch16_224", data, TOP1, (x, y)).shown

    assert shown("/images", "macs", "top1")
    assert not shown("/images", "latency", "top1")
    assert not shown("/images", "top1", "macs")
    assert not shown("digits", "macs", "top1")
    kl = metric_of("kl")
    assert not references("deit_small_patch16_224", "/images", kl, (MACS, kl)).points


def test_a_page_has_them_marked_and_never_on_the_front() -> None:
    published = references("deit_small_patch16_224", "/images", TOP1, AXES)
    own = [Point("tome", 2.0, 79.0, kind="best")]
    figures = front_figures(own, TOP1, axes=AXES, limits={}, published=published)
    kinds = [p["kind"] for p in figures["points"]]
    assert kinds == ["best", *["published"] * len(published.points)]
    assert figures["published"] is True
    first = figures["points"][1]
    assert first["schedule"] == published.points[0].source
    assert first["mode"] == published.points[0].mode
    assert not front_figures(own, TOP1, axes=AXES, limits={})["published"]
