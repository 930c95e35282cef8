"""Tables of papers as data: complete, and every row can be had."""

from functools import cache
from pathlib import Path

import pytest
from published_rows import tiny_study

from autotok.backbones import feature_net
from autotok.backbones.loading import load_structure
from autotok.compression.schedule import realise
from autotok.errors import ConfigError, UnknownName
from autotok.facts import BackboneFacts
from autotok.studies import study_table
from autotok.studies.row_plan import plan_row
from autotok.studies.study_table import list_studies, load_study

STUDIES = list_studies()
UNCOMPRESSED_AGAIN = {"survey-3/tofu-r0", "survey-3/pitome-r0"}
"""Nothing removed is the same model, whatever the method."""


@cache
def facts_of(name: str) -> BackboneFacts:
    return load_structure(name).facts


def test_the_tables_and_figures_of_the_three_papers_are_there() -> None:
    tofe = {f"tofe-{number}" for number in range(1, 8)}
    assert set(STUDIES) == {"survey-2", "survey-3", "ltp-1", "ltp-2", "ltp-figures"} | tofe


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_is_a_registered_method_with_a_valid_schedule_on_its_backbone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PaPr's network takes seconds to build, and no schedule is about its exact cost
    monkeypatch.setattr(feature_net, "feature_net_cost", lambda *_: (300_000_000, 2_000_000))
    study = load_study(name)
    for row in study.rows:
        facts = facts_of(row.backbone)
        assert facts.image_shape[1] == 224
        if not row.lacks:
            planned = plan_row(study, row, facts, facts)
            kept = realise(planned.config, facts).kept
            assert bool(kept) == (row.method != "none"), row.name
            assert bool(planned.schedule_from) == (row.method != "none"), row.name
            assert bool(row.stated) == bool(row.schedule), row.name
        assert bool(row.training) == (row.mode == "retrain"), row.name


def test_every_published_figure_stands_beside_a_row() -> None:
    studies = [load_study(name) for name in STUDIES]
    used = {f.key for study in studies for row in study.rows for f in study.published(row)}
    assert set(study_table._figures()) - used == UNCOMPRESSED_AGAIN


def test_every_figure_keeps_its_source() -> None:
    for figure in study_table._figures().values():
        assert figure.source
        assert figure.table


def test_a_study_or_row_that_is_none_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="study 'survey-4' is unknown; did you mean 'survey-"):
        load_study("survey-4")
    with pytest.raises(UnknownName, match="row of study 'ltp-2' 'papa' is unknown; did you mean"):
        load_study("ltp-2").named(["papa"])


def test_another_convention_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_study(monkeypatch, tmp_path, further={"convention": "flops"})
    with pytest.raises(ConfigError, match="convention 'flops' is not macs or macs_noattn"):
        load_study("tiny")
