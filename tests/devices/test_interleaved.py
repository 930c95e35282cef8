"""Taking turns with a reference, on a clock that the test turns."""

import pytest
import torch
from torch import Tensor, nn

from autotok.devices import interleaved as turns
from autotok.devices.interleaved import clock_for, interleaved


class Sleeper(nn.Module):
    """Takes so many milliseconds on a clock of its own, times the present slowness."""

    now = 0.0
    slowness = 1.0

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds, self.runs = milliseconds, 0

    def forward(self, images: Tensor) -> Tensor:
        self.runs += 1
        Sleeper.now += self.milliseconds * Sleeper.slowness / 1e3
        Sleeper.slowness *= 1.01
        return images


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    Sleeper.now, Sleeper.slowness = 0.0, 1.0
    monkeypatch.setitem(turns.CLOCKS, "test", lambda: Sleeper.now)


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    found = interleaved(Sleeper(30.0), torch.zeros(1), Sleeper(20.0), clock="test", seconds=0.0)
    assert found.ratio == pytest.approx(1.5, rel=0.01)
    assert found.spread < 0.01
    assert found.turns == 4


def test_it_ends_when_enough_turns_were_had() -> None:
    found = interleaved(Sleeper(1.0), torch.zeros(1), Sleeper(2.0), clock="test", seconds=60.0)
    assert found.turns == turns.ENOUGH_TURNS
    assert found.ratio == pytest.approx(0.5, rel=0.1)


def test_short_models_run_several_times_a_turn() -> None:
    model = Sleeper(0.1)
    interleaved(model, torch.zeros(1), Sleeper(50.0), clock="test", seconds=0.0)
    assert model.runs > 50 * turns.LEAST_TURNS


def test_one_thread_is_timed_by_its_processor_time() -> None:
    assert clock_for(torch.device("cpu"), 1) == "processor"
    assert clock_for(torch.device("cpu"), 2) == "wall"
    assert clock_for(torch.device("cuda"), 1) == "wall"
