"""The board's file on its own: energy counters from made-up system folders, with a fake clock."""

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sensors import jetson, old_jetson, package, write

from autotok.devices import board


def packages(sysfs: Path) -> None:
    package(sysfs, 0, 100)
    package(sysfs, 1, 200)
    package(sysfs, 2, 9999, name="psys")
    write(sysfs / "class/powercap/intel-rapl:0:0", name="package-core", energy_uj=7)


def kept_from_this_user(sysfs: Path) -> None:
    (package(sysfs, 0, 5) / "energy_uj").unlink()


def without_power(sysfs: Path) -> None:
    write(sysfs / "class/hwmon/hwmon3", name="ina3221", in1_label="VDD_IN", in1_input=5000)


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(board, "SYSFS", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which only tests move; nothing is read in between."""
    seconds = [0.0]
    monkeypatch.setattr(board.time, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(board, "SAMPLE_S", 60.0)
    return seconds


class Model:
    """A tenth of a second a run, in which something else happens too."""

    runtime, threads, gpu, marks, peak_memory = "made up", 1, None, (), None

    def __init__(self, clock: list[float], beside: Callable[[int], object]) -> None:
        self.clock, self.beside, self.runs = clock, beside, 0

    def once(self) -> None:
        self.clock[0] += 0.1
        self.runs += 1
        self.beside(self.runs)


def test_packages_are_added_up_and_may_begin_anew(sysfs: Path) -> None:
    first, second = package(sysfs, 0, 900_000), package(sysfs, 1, 200)
    meter = board.find_meter(None)
    assert meter is not None
    meter.start()
    write(first, energy_uj=100_000)
    write(second, energy_uj=300_200)
    assert meter.stop() == pytest.approx(0.2 + 0.3)


@pytest.mark.parametrize(("machine", "watts"), [(jetson, 10.0), (old_jetson, 4.5)])
def test_watts_become_joules(
    sysfs: Path, clock: list[float], machine: Callable[[Path], None], watts: float
) -> None:
    machine(sysfs)
    meter = board.find_meter("")
    assert meter is not None
    meter.start()
    clock[0] += 2.0
    assert meter.stop() == pytest.approx(2.0 * watts)


def test_a_busy_sensor_misses_a_sample_and_a_dead_one_fails() -> None:
    wanted, given = iter([2.0, None, 2.0, None]), []

    def read() -> float:
        given.append(next(wanted, None))
        if given[-1] is None:
            raise OSError("busy")
        return given[-1]

    meter = board.Meter("made up", read)
    meter.start()
    while len(given) < 3:
        pass  # a sample is taken every few milliseconds
    with pytest.raises(OSError, match="busy"):
        meter.stop()


def test_energy_is_that_of_one_run(sysfs: Path, clock: list[float]) -> None:
    zone = package(sysfs, 0, 0)
    model = Model(clock, lambda runs: write(zone, energy_uj=2000 * runs))
    slot = board.Slot(model, 60.0)
    found = board._energy(slot, 60.0)
    assert found == {
        "energy_mj": pytest.approx(2.0), "energy_source": "RAPL, 1 processor package",
    }  # fmt: skip


def test_there_is_no_figure_where_reading_fails_the_counter_stands_still_or_time_is_short(
    sysfs: Path, clock: list[float]
) -> None:
    zone = package(sysfs, 0, 5)
    still = board.Slot(Model(clock, lambda runs: None), 60.0)
    assert board._energy(still, 60.0) == {}
    moving = board.Slot(Model(clock, lambda runs: write(zone, energy_uj=runs)), 60.0)
    assert board._energy(moving, 60.0) != {}
    runs = moving.model.runs
    assert board._energy(moving, 1.5) == {}
    assert moving.model.runs == runs
    moving.model.beside = lambda runs: (zone / "energy_uj").unlink(missing_ok=True)
    assert board._energy(moving, 60.0) == {}


def test_loading_an_engine_does_not_count_as_its_run() -> None:
    joules, running = [0.0], object.__new__(board.EngineSlot)

    def run(seconds: float) -> list[float]:
        joules[0] += 50.0 + 8.0 * seconds  # loading, and eight watts
        return [10.0] * round(100 * seconds)

    running.run = run  # type: ignore[method-assign]
    meter = SimpleNamespace(start=lambda: joules.__setitem__(0, 0.0), stop=lambda: joules[0])
    spent, runs = running.energy(meter)
    assert (spent, runs) == (pytest.approx(24.0), 300)


def nvml(count: int, *, joules: bool = True) -> Any:
    """NVIDIA's package with so many GPUs, which use 30 W."""

    def fail(handle: object) -> float:
        raise RuntimeError("not supported")

    module: Any = types.ModuleType("pynvml")
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: count
    module.nvmlDeviceGetHandleByIndex = lambda index: f"the {index}th"
    module.nvmlDeviceGetHandleByUUID = lambda name: name
    module.nvmlDeviceGetTotalEnergyConsumption = (lambda handle: 1000) if joules else fail
    module.nvmlDeviceGetPowerUsage = lambda handle: 30_000
    return module


def test_a_gpu_counts_for_itself_if_it_is_told_or_the_only_one(
    sysfs: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(2))
    assert board.find_meter("") is None
    counted = board.find_meter("ab-cd")
    assert counted is not None
    assert (counted.source, counted.read()) == ("NVML, energy", [1e6])
    monkeypatch.setitem(sys.modules, "pynvml", nvml(1, joules=False))
    sampled = board.find_meter("")
    assert sampled is not None
    assert sampled.source == "NVML, power sampled"
    sampled.start()
    clock[0] += 0.5
    assert sampled.stop() == pytest.approx(15.0)


# --- the process of a request


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> board.Board:
    """A board whose children run a script of the test's own: `task` is its text."""
    monkeypatch.setattr(board, "HEARTBEAT_S", 0.05)
    script = tmp_path / "script.py"
    script.write_text("import sys; exec(sys.argv[1])\n")
    monkeypatch.setattr(board, "__file__", str(script))
    return board.Board(str(tmp_path))


def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process groups that are killed from now on; they really are."""
    groups: list[int] = []
    really = os.killpg

    def killpg(group: int, number: int) -> None:
        groups.append(group)
        really(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    return groups


def test_a_child_that_takes_too_long_is_killed_once_and_forgotten(
    one: board.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = killed(monkeypatch)
    with pytest.raises(board.Trouble) as caught:
        one._child({}, "import time; time.sleep(600)", {}, 0.1)
    assert caught.value.kind == "timeout"
    assert one.child is None
    assert len(groups) == 1
    one._end_child()
    assert len(groups) == 1  # by now its number may be a stranger's


def test_a_child_is_not_kept_where_nobody_listens_any_more(
    one: board.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = killed(monkeypatch)

    def gone(request: dict[str, Any], what: dict[str, Any]) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(one, "_say", gone)
    with pytest.raises(BrokenPipeError):
        one._child({}, "import time; time.sleep(600)", {}, 60.0)
    assert one.child is None
    with pytest.raises(ProcessLookupError):
        os.killpg(groups[0], 0)


def test_a_child_that_has_ended_is_never_signalled(
    one: board.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = killed(monkeypatch)
    code = "print(); print('{\"autotok\": 1, \"words\": \"' + 100_000 * 'a' + '\"}')"
    assert one._child({}, code, {}, 60.0) == {"words": 100_000 * "a"}
    one._end_child()
    with pytest.raises(board.Trouble, match="ended with status 3"):
        one._child({}, "sys.exit(3)", {}, 60.0)
    one._end_child()
    assert not groups
