"""Published numbers and sources are complete, and about methods that exist or are known not to."""

import pytest

from autotok.methods import get_method, list_methods
from autotok.methods.evidence import (
    held_to,
    not_built,
    published_methods,
    published_results,
)

OWN = [n for n in list_methods() if get_method(n).__module__.startswith("autotok.")]


def test_a_published_row_comes_back_as_printed() -> None:
    rows = [r for r in published_results("tome") if r.table == "Table I" and r.latency_ms]
    small = next(r for r in rows if r.backbone == "ViT-S-Augreg")
    assert (small.gflops, small.top1_pct, small.latency_ms) == (2.29, 77.0, 9.86)
    assert (small.baseline_top1_pct, small.batch_size) == (81.39, 1)
    assert small.device == "NVIDIA RTX 3090"
    assert small.source.startswith("LTP-ViT")


@pytest.mark.parametrize("method", published_methods())
def test_every_row_has_a_source_a_known_setting_and_a_figure(method: str) -> None:
    for row in published_results(method):
        assert row.source
        assert row.table
        assert row.setting in ("plug-in", "retrain", "unstated")
        figures = (row.top1_pct, row.throughput_img_s, row.latency_ms, row.memory_mb)
        assert any(figure is not None for figure in figures)
        assert row.top1_pct is None or 1 < row.top1_pct < 100


def test_numbers_are_of_methods_that_are_built_or_known_not_to_be() -> None:
    known = {*list_methods(), *(entry.name for entry in not_built())}
    assert set(published_methods()) <= known


@pytest.mark.parametrize("method", OWN)
def test_every_method_says_what_it_is_held_to(method: str) -> None:
    held = held_to(method)
    assert held.what
    assert held.what != "not a method of autotok's own"
    assert held.words.endswith(f"({held.what})")


def test_a_method_from_elsewhere_is_held_to_nothing() -> None:
    assert held_to("somebody else's").to == "none"


def test_what_is_not_built_is_not_registered_and_says_why() -> None:
    for entry in not_built():
        assert entry.name not in list_methods()
        assert entry.title
        assert len(entry.reason) > 20
