"""Measuring: order of runs, statistics and verdicts with a fake clock; one real run."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autotok.backbones.tiny import tiny_backbone
from autotok.devices import board
from autotok.devices.measure import measure


class Timed(nn.Module):
    """A module that moves a fake clock by the next of its durations, in milliseconds."""

    def __init__(self, clock: list[float], log: list[str], name: str, durations: list[float]):
        super().__init__()
        self.clock, self.log, self.name = clock, log, name
        self.durations = itertools.cycle(durations)

    def forward(self, images: Tensor) -> Tensor:
        self.clock[0] += next(self.durations) / 1e3
        self.log.append(self.name)
        return images


Maker = Callable[[str, list[float]], Timed]


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> Maker:
    clock = [0.0]
    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(board.time, name, lambda: clock[0])
    monkeypatch.setattr(board, "find_meter", lambda gpu: None)
    return lambda name, durations: Timed(clock, log, name, durations)


IMAGES = torch.zeros(4, 3, 8, 8)


def test_model_and_reference_take_turns(timed: Maker, log: list[str]) -> None:
    found = measure(timed("M", [50.0]), IMAGES, reference=timed("R", [100.0]), rounds=5)
    assert "".join(log).endswith("R" + "MR" * 5 + "M")  # the last one is for memory
    assert (found.runs, found.latency_ms) == (5, pytest.approx(50.0))
    assert found.speedup == pytest.approx(2.0)
    assert found.reference_latency_ms == pytest.approx(100.0)
    assert found.throughput_img_s == pytest.approx(80.0)


def test_a_fast_model_runs_several_times_in_its_slot(timed: Maker, log: list[str]) -> None:
    found = measure(timed("M", [5.0]), IMAGES, reference=timed("R", [10.0]), rounds=5)
    assert "".join(log).endswith("RR" + "MMMMRR" * 5 + "M")
    assert (found.runs, found.speedup) == (20, pytest.approx(2.0))


def test_being_taken_off_the_processor_at_times_leaves_the_ratio(timed: Maker) -> None:
    interrupted = [1.0, 1.0, 5.0]
    model, reference = timed("M", interrupted), timed("R", interrupted)
    assert measure(model, IMAGES, reference=reference).speedup == pytest.approx(1.0, abs=0.01)


def test_median_p90_and_mad_are_those_of_the_runs(timed: Maker) -> None:
    found = measure(timed("M", [40.0, 40.4, 39.6, 40.0, 56.0]), IMAGES, rounds=10)
    assert found.latency_ms == pytest.approx(40.0)
    assert found.mad_ms == pytest.approx(0.4, abs=1e-6)
    assert found.p90_ms == pytest.approx(56.0)
    assert (found.verdict, found.speedup) == ("steady", None)


@pytest.mark.parametrize(
    ("spread", "verdict", "runs"), [(1, "steady", 6), (6, "noisy", 18), (30, "unreliable", 18)]
)
def test_a_noisy_run_is_prolonged_and_says_so(
    timed: Maker, spread: int, verdict: str, runs: int
) -> None:
    found = measure(timed("M", [100.0, 100.0 + spread, 100.0 - spread]), IMAGES, rounds=6)
    assert (found.verdict, found.runs) == (verdict, runs)
    assert verdict in found.source
    assert found.prolonged == ("prolonged for noise" in found.source) == (verdict != "steady")


def test_with_one_thread_the_speed_up_is_of_the_time_it_had_the_processor(
    timed: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    had = itertools.count(0.0, 0.03)  # at every look, while the clock on the wall says otherwise
    monkeypatch.setattr(board.time, "thread_time", lambda: next(had))
    model, reference = timed("M", [50.0]), timed("R", [100.0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert measure(model, IMAGES, reference=reference).speedup == pytest.approx(1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert measure(model, IMAGES, reference=reference).speedup == pytest.approx(2.0)


def test_a_speed_up_that_is_not_sure_yet_prolongs_the_run(timed: Maker) -> None:
    wavering = [100.0, 108.0, 92.0, 100.0, 108.0, 92.0, 100.0]
    model, reference = timed("M", [50.0]), timed("R", wavering)
    found = measure(model, IMAGES, reference=reference, rounds=5)
    assert (found.verdict, found.prolonged) == ("steady", True)
    assert found.speedup_error_pct is not None
    sure = measure(timed("M", [50.0]), IMAGES, reference=timed("R", [100.0]), rounds=5)
    assert (sure.speedup_error_pct, sure.prolonged) == (0.0, False)


def test_a_drift_of_the_machine_cancels_in_the_speedup(timed: Maker) -> None:
    class Slowing(Timed):
        """Twice as slow after four seconds of work."""

        def forward(self, images: Tensor) -> Tensor:
            self.clock[0] += next(self.durations) * (1 + self.clock[0] / 4) / 1e3
            return images

    model, reference = timed("M", [50.0]), timed("R", [100.0])
    model.__class__ = reference.__class__ = Slowing
    found = measure(model, IMAGES, reference=reference, rounds=10)
    assert found.reference_latency_ms is not None
    assert found.speedup == pytest.approx(2.0, rel=0.02)


def test_time_runs_out_after_three_turns_at_least(timed: Maker) -> None:
    assert measure(timed("M", [20_000.0]), IMAGES, timeout_s=1.0).runs == 3


def test_warm_up_goes_on_until_medians_agree(timed: Maker, log: list[str]) -> None:
    slow_start = [300.0, 120.0, 90.0, 60.0, 40.0, *[40.0] * 500]
    found = measure(timed("M", slow_start), IMAGES, rounds=5)
    assert found.latency_ms == pytest.approx(40.0)
    assert len(log) >= 5 + 8


def test_energy_is_given_where_the_machine_counts_it(
    timed: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meter:
        """One joule a stop."""

        source = "a made-up counter"

        def start(self) -> None:
            """Nothing to note."""

        def stop(self) -> float:
            return 1.0

    assert measure(timed("M", [50.0]), IMAGES, rounds=5).energy_mj is None
    monkeypatch.setattr(board, "find_meter", lambda gpu: Meter())
    found = measure(timed("M", [50.0]), IMAGES, rounds=5)
    assert found.energy_source == "a made-up counter"
    assert found.energy_mj == pytest.approx(1000.0 / 20, rel=0.1)  # as many as fill a second


def test_on_cuda_the_host_and_the_device_are_timed_apart(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class Event:
        """Knows when the device, which works three times as long as the host, passes it."""

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at = 0.0

        def record(self, stream: object) -> None:
            self.at = 3 * clock[0]

        def elapsed_time(self, other: "Event") -> float:
            return 1e3 * (other.at - self.at)

    def synchronise(device: torch.device) -> None:
        clock[0] += 0.004

    monkeypatch.setattr(board.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    model = Timed(clock, log, "M", [2.0])
    timer = board.Timer(lambda: model(IMAGES), torch.device("cuda"))
    assert timer.time() == (pytest.approx(6.0), pytest.approx(6.0))
    assert timer.parts == [(pytest.approx(2.0), pytest.approx(6.0))]


def test_a_real_measurement_says_what_was_measured() -> None:
    model = tiny_backbone()
    images = torch.randn(2, *model.facts.image_shape)
    found = measure(model, images, reference=model, rounds=5, timeout_s=5.0)
    assert 0.5 < (found.speedup or 0) < 2.0
    assert found.latency_ms <= found.p90_ms
    assert 50 < found.peak_memory_mb < 8000
    assert (found.batch, found.image_shape) == (2, (3, 32, 32))
    assert (found.dtype, found.when[:2]) == ("float32", "20")
    assert "torch" in found.source
    assert found.threads == torch.get_num_threads()
