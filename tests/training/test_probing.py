"""The learning rate that a fine-tune begins with."""

import dataclasses
import json

import pytest
from tiny_student import Noise, student

from autotok.backbones.tiny import tiny_backbone
from autotok.finetune_spec import FineTuneSpec
from autotok.training.finetune import finetune_student
from autotok.training.probe import CAREFUL, RATES, USUAL, lower
from autotok.training.teacher import Teacher

SPEC = FineTuneSpec(length="4 steps", batch_size=8, lr=1e-5)


def test_a_given_rate_is_taken_and_not_probed() -> None:
    done = finetune_student(student(), Noise(), SPEC, teacher=Teacher(tiny_backbone()))
    assert (done.rate.lr, done.rate.why, done.rate.tried) == (1e-5, "given", ())
    assert done.steps == 4


def test_a_probe_counts_within_the_length_and_its_losses_are_recorded() -> None:
    spec = FineTuneSpec.from_dict({"length": "100 steps", "batch_size": 8, "lr": "auto"})
    assert spec.lr is None
    done = finetune_student(student(), Noise(), spec, teacher=Teacher(tiny_backbone()))
    assert 80 <= done.steps < 100
    assert done.steps + done.rate.spent == 100
    found = done.evidence()
    assert found["lr"] in (*RATES, lower(RATES[-1]))
    assert len(found["probe"]) >= 1
    assert [one["lr"] for one in found["probe"]] == [one.lr for one in done.rate.tried]
    assert json.dumps(found)


@pytest.mark.parametrize(("method", "lr"), [("evit", CAREFUL), ("dynamicvit", USUAL)])
def test_too_short_for_a_probe_pretrained_weights_are_spared_and_new_ones_are_not(
    method: str, lr: float
) -> None:
    spec = dataclasses.replace(SPEC, lr=None)
    done = finetune_student(student(method), Noise(), spec, teacher=Teacher(tiny_backbone()))
    assert (done.rate.lr, done.rate.why) == (lr, "4 steps are too few for a probe")
