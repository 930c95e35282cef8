"""Where the strength of a published row comes from."""

import dataclasses

import pytest

from autotok.backbones.loading import load_structure
from autotok.compression.schedule import realise
from autotok.errors import ConfigError, IncompatibleMethod
from autotok.studies.row_plan import plan_row, published_share, published_speedup
from autotok.studies.study_table import StudyRow, StudyTable, load_study


def kept_of(study: StudyTable, name: str) -> tuple[int, ...]:
    (row,) = study.named([name])
    facts = load_structure(row.backbone).facts
    return realise(plan_row(study, row, facts, facts).config, facts).kept


def test_a_stated_r_is_taken_as_stated() -> None:
    assert kept_of(load_study("survey-3"), "tome-r9") == tuple(196 - 9 * n for n in range(1, 14))


def test_ltp_counts_found_from_the_cost_are_those_that_its_gflops_allow() -> None:
    """12 * 12 * D^2 per token and block: 2.34 G is 106 patch tokens of ViT-S, 8.89 G 102 of B."""
    study = load_study("ltp-1")
    assert kept_of(study, "vit-s-ltp") == (106,)
    assert kept_of(study, "vit-b-ltp") == (102,)


def test_a_stand_in_keeps_the_same_share_of_its_tokens_and_says_so() -> None:
    study = load_study("tofe-5")
    (row,) = study.named(["4-4-1"])
    own, demo = load_structure(row.backbone).facts, load_structure("autoformer_demo").facts
    planned = plan_row(study, row, own, demo)
    kept = realise(planned.config, demo).by_layer
    assert kept == {3: round(0.4 * 841), 6: round(0.4 * 841), 9: round(0.1 * 841)}
    assert planned.schedule_from.endswith("the same share of tokens on autoformer_demo")


def test_what_the_source_does_not_state_is_found_from_its_cost_and_said() -> None:
    study = load_study("tofe-1")
    (row,) = study.named(["deit-s-tome"])
    facts = load_structure(row.backbone).facts
    share = published_share(study, row)
    assert share == pytest.approx(2.0 / 4.6)
    whence = plan_row(study, row, facts, facts).schedule_from
    assert whence.startswith("not stated; found from the published cost, 0.435 of uncompressed")


def test_without_a_cost_the_published_speed_up_is_taken_and_said() -> None:
    study = load_study("ltp-2")
    (row,) = study.named(["ltp"])
    facts = load_structure(row.backbone).facts
    assert published_share(study, row) is None
    assert published_speedup(study, row) == pytest.approx(2234 / 1355)
    whence = plan_row(study, row, facts, facts).schedule_from
    assert whence.startswith("not stated, nor the cost; taken as 1/1.649 of it")


def test_latencies_of_two_devices_give_no_speed_up() -> None:
    study = load_study("ltp-figures")
    (row,) = study.named(["ltp-half"])
    assert published_speedup(study, row) is None


ASKED = StudyRow("x", "tiny", "tome", published=())
TABLE = StudyTable("tiny", "", "", "macs", (ASKED,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "states neither strength nor cost of row 'x' of study 'tiny'"),
        ({"share": 0.01}, "row 'x' asks for 0.010 of the uncompressed cost, but the nearest"),
        ({"lacks": "autotok has no such thing"}, "autotok has no such thing"),
        ({"method": "none2"}, "method 'none2' is unknown"),
    ],
)
def test_a_row_that_cannot_be_had_says_why(changes: dict[str, object], message: str) -> None:
    facts = load_structure("tiny").facts
    row = dataclasses.replace(ASKED, **changes)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=message):
        plan_row(TABLE, row, facts, facts)


def test_naive_positions_need_a_backbone_that_looks_positions_up() -> None:
    facts = load_structure("tiny").facts
    row = dataclasses.replace(ASKED, positions="naive", schedule={"removed_per_block": 1})
    with pytest.raises(IncompatibleMethod, match="means nothing on backbone 'tiny'"):
        plan_row(TABLE, row, facts, facts)


def test_a_method_without_a_known_schedule_has_no_shape_to_scale() -> None:
    facts = load_structure("tiny").facts
    row = dataclasses.replace(ASKED, method="avit", share=0.5)
    with pytest.raises(ConfigError, match="no default schedule of method 'avit' is known"):
        plan_row(TABLE, row, facts, facts)
