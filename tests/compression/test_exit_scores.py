"""What every exit says of images, and the threshold that meets a mean cost."""

import numpy as np
import pytest
import torch
from early import LGVIT, early_model, images

from autotok.compression.exit_scores import score_exits, sureness, threshold_meeting
from autotok.errors import ConfigError
from autotok.exits import ExitPolicy


def test_thresholds_are_bisected_over_what_was_seen() -> None:
    sure = np.array([[0.9, 0.2, 0.5, 0.7]])
    costs = np.array([[1, 3]] * 4)
    assert threshold_meeting(sure, costs, 2.0) == 0.5  # 0.9 and 0.7 stop
    assert threshold_meeting(sure, costs, 2.4) == 0.5
    assert threshold_meeting(sure, costs, 3.0) == 0.9
    assert threshold_meeting(sure, costs, 1.0) < 0
    low = threshold_meeting(1.0 - sure, costs, 2.0, criterion="entropy")
    assert ((1.0 - sure) < low).sum() == 2


@pytest.mark.parametrize("asked", [0.9, 3.1])
def test_a_mean_cost_out_of_reach_names_the_range(asked: float) -> None:
    with pytest.raises(ConfigError, match="feasible: 1 to 3"):
        threshold_meeting(np.array([[0.5]]), np.array([[10**9, 3 * 10**9]]), asked * 1e9)


def test_a_mean_cost_that_no_threshold_meets_is_refused_with_what_can_be() -> None:
    sure, costs = np.array([[0.9, 0.2]]), np.array([[10**9, 3 * 10**9]] * 2)
    with pytest.raises(ConfigError, match=r"0\.5 GFLOPs cannot be met .* feasible: 1 to 3"):
        threshold_meeting(sure, costs, 0.5e9)


@torch.no_grad()
def test_the_answers_chosen_are_those_of_a_run_that_stops() -> None:
    made = early_model(ExitPolicy((1, 2, 3, 4), LGVIT, threshold=(0.15,)))
    number, answers = score_exits(made, images()).chosen(made)
    torch.testing.assert_close(answers, made(images()))
    assert len(number) == len(images())


@torch.no_grad()
def test_patience_has_no_threshold_to_calibrate() -> None:
    made = early_model(ExitPolicy((1, 2), criterion="patience", patience=1))
    with pytest.raises(ConfigError, match="'patience' cannot be calibrated"):
        sureness(made, score_exits(made, images()))
