"""Notes that dashboards show: complete, escaped, in the layout they are read in."""

import dataclasses
from pathlib import Path
from typing import Any

from evidence import hits, record
from problems import fake_problem

from autotok.config import SubnetSpec
from autotok.searching.proposing.proposals import Proposals
from autotok.searching.records.notes import note_entries, study_note, trial_note
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import TrialRecord
from autotok.searching.space.settings import SearchSettings


def proposals(folder: Path) -> Proposals:
    problem = fake_problem()
    return Proposals(SearchSettings(), problem, folder / "study.log")


def shown(notes: Proposals) -> tuple[int, str]:
    """The study's note as a dashboard puts it together."""
    attrs: dict[str, Any] = notes._study._storage.get_study_system_attrs(notes._study_id)
    prefix = "dashboard:note_str:"
    parts = {key: value for key, value in attrs.items() if key.startswith(prefix)}
    return attrs["dashboard:note_ver"], "".join(parts[f"{prefix}{i}"] for i in range(len(parts)))


def test_a_trial_note_says_what_it_is_costs_and_achieved() -> None:
    tuned = record(8, "tome", 0.88, hits(0.8), untuned=hits(0.6), seconds=75.0)
    subnet = SubnetSpec(96, (3, 3), (4.0, 3.5))
    assert tuned.config is not None
    tuned = dataclasses.replace(tuned, config=dataclasses.replace(tuned.config, subnet=subnet))
    text = trial_note(dataclasses.replace(tuned, stopped="32 images: dominated by trial 3"))
    for words in (
        "### Trial 8: tome, fine-tuned", "top1 79", "on 400 images (final)", "160 after layer 3",
        "0.88 G multiply-accumulates (0.704 without attention products, 1.76 GFLOPs at two per",
        "200 steps on 3200 images in 75 s", "retrains trial 7", "heads 3 3, MLP ratios 4 3.5",
        "**stopped**: 32 images: dominated by trial 3",
    ):  # fmt: skip
        assert words in text, words


def test_a_trial_that_came_to_nothing_has_a_note_with_the_reason() -> None:
    text = trial_note(TrialRecord(4, "failed", None, reason="no <i>shape</i>\nfits `x`"))
    assert "### Trial 4: failed" in text
    assert "**reason**: no \\<i\\>shape\\</i\\> fits \\`x\\`" in text


def test_a_long_note_is_split_in_order() -> None:
    (_, version), *parts = note_entries("x" * 2045 + "y" * 10, 7)
    assert version == 1
    assert [key for key, _ in parts] == ["dashboard:7:note_str:0", "dashboard:7:note_str:1"]
    assert parts[1][1] == "y" * 10


def test_the_study_note_is_replaced_as_a_whole_and_only_when_it_changed(tmp_path: Path) -> None:
    notes = proposals(tmp_path)
    notes.describe("a" * 5000)
    assert shown(notes) == (1, "a" * 5000)
    size = (tmp_path / "study.log").stat().st_size
    notes.describe("a" * 5000)
    assert (tmp_path / "study.log").stat().st_size == size
    notes.describe("short")
    assert shown(notes) == (2, "short")


def test_the_study_note_says_what_was_asked_in_words() -> None:
    config = {
        "question": {"backbone": "deit_s", "data": "a_b", "flops_convention": "flops2x"},
        "budgets": ["50% = 100 multiply-accumulates"],
        "search": {"n_trials": 12, "timeout_s": None, "sampler": "tpe", "seed": 3},
    }
    text = study_note(config, make_objectives(("quality", "macs_g"), "kl"))
    assert "**data**: a\\_b" in text
    assert "two per multiply-accumulate" in text
    assert "**objective**: kl, minimised" in text
    assert "up to 12 configurations, sampler tpe, seed 3" in text
    assert "What this search was asked" in study_note({}, ())
