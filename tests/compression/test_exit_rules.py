"""Stopping rules, by hand."""

import pytest
import torch
from torch import Tensor

from autotok.compression.exit_rules import StoppingRule, entropy, first_exits
from autotok.exits import ExitPolicy


def saying(*classes: int, sure: float = 2.0) -> Tensor:
    """(E, 1, 3) logits of one image whose exits name these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).unsqueeze(1) * sure


def patience(number: int) -> ExitPolicy:
    return ExitPolicy((0, 1, 2, 3), criterion="patience", patience=number)


@pytest.mark.parametrize(
    ("number", "classes", "stops"),
    [(1, (0, 1, 2, 0), 0), (2, (0, 1, 1, 1), 2), (3, (0, 1, 1, 1), 3), (3, (0, 0, 1, 1), -1)],
)
def test_patience_counts_exits_that_agree(
    number: int, classes: tuple[int, ...], stops: int
) -> None:
    assert first_exits(patience(number), saying(*classes)).tolist() == [stops]


def test_patient_and_confident_counts_sure_exits_in_a_row() -> None:
    policy = ExitPolicy((0, 1, 2, 3), criterion="patient_confident", threshold=(0.5,))
    logits = torch.cat([saying(0, sure=9.0), saying(0, sure=0.1), saying(1, 2, sure=9.0)])
    assert first_exits(policy, logits).tolist() == [3]


def test_confidence_must_exceed_its_threshold() -> None:
    logits = torch.zeros(1, 1, 2)
    assert first_exits(ExitPolicy((0,), threshold=(0.5,)), logits).tolist() == [-1]
    assert first_exits(ExitPolicy((0,), threshold=(0.49,)), logits).tolist() == [0]


def test_each_exit_may_have_its_own_threshold() -> None:
    policy = ExitPolicy((0, 1), threshold=(0.99, 0.5))
    assert first_exits(policy, saying(0, 0)).tolist() == [1]


def test_the_surest_image_has_no_entropy() -> None:
    assert entropy(torch.tensor([1e4, 0.0, -1e4])).item() == 0.0
    assert entropy(torch.tensor([0.0, -torch.inf])).item() == 0.0
    assert first_exits(ExitPolicy((0,), criterion="entropy"), saying(0, sure=1e4)).tolist() == [0]


def test_what_was_counted_stays_with_the_images_that_go_on() -> None:
    rule = StoppingRule(patience(2))
    assert not rule.stops(torch.eye(3)).any()
    rule.keep(torch.tensor([2]))
    assert rule.stops(torch.eye(3)[2:]).tolist() == [True]
