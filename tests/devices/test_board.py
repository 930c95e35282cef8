"""The board's file on its own: energy counters from made-up system folders, with a fake clock."""

import ast
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensors import jetson, old_jetson, package, write

from autotok.devices import board


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

    def __init__(self, clock: list[float], beside: Callable[[int], object]) -> None:
        self.clock, self.beside, self.runs = clock, beside, 0

    def once(self) -> None:
        self.clock[0] += 0.1
        self.runs += 1
        self.beside(self.runs)


def test_the_file_runs_alone_and_on_the_python_of_an_old_board() -> None:
    tree = ast.parse(Path(board.__file__).read_text("utf-8"), feature_version=(3, 6))
    found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {a.name for n in found if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "autotok" for n in found if isinstance(n, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names


def test_a_machine_without_counters_has_none(sysfs: Path) -> None:
    assert board.find_meter(None) is None


def test_rapl_adds_up_packages_and_leaves_out_their_parts(sysfs: Path) -> None:
    first, second = package(sysfs, 0, 900_000), package(sysfs, 1, 200)
    package(sysfs, 2, 9999, name="psys")
    write(sysfs / "class/powercap/intel-rapl:0:0", name="package-core", energy_uj=7)
    meter = board.find_meter(None)
    assert meter is not None
    assert meter.source == "RAPL, 2 processor packages"
    meter.start()
    write(first, energy_uj=100_000)  # it began anew
    write(second, energy_uj=300_200)
    assert meter.stop() == pytest.approx(0.2 + 0.3)


def test_a_counter_that_only_the_administrator_may_read_is_none(sysfs: Path) -> None:
    (package(sysfs, 0, 5) / "energy_uj").unlink()
    assert board.find_meter(None) is None


@pytest.mark.parametrize(
    ("machine", "watts", "rails"), [(jetson, 10.0, "VDD_IN"), (old_jetson, 4.5, "CPU + GPU")]
)
def test_a_jetson_is_read_at_the_rail_that_feeds_the_board_or_at_all_of_them(
    sysfs: Path, clock: list[float], machine: Callable[[Path], None], watts: float, rails: str
) -> None:
    machine(sysfs)
    meter = board.find_meter("")
    assert meter is not None
    assert meter.source == f"INA3221, {rails}"
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
    slot = board.Slot(board.Timer(model.once), 60.0)
    found = board.energy_of(slot, 60.0)
    assert found == {
        "energy_mj": pytest.approx(2.0), "energy_source": "RAPL, 1 processor package",
    }  # fmt: skip


def test_there_is_no_figure_where_reading_fails_the_counter_stands_still_or_time_is_short(
    sysfs: Path, clock: list[float]
) -> None:
    zone = package(sysfs, 0, 5)
    still = board.Slot(board.Timer(Model(clock, lambda runs: None).once), 60.0)
    assert board.energy_of(still, 60.0) == {}
    model = Model(clock, lambda runs: write(zone, energy_uj=runs))
    moving = board.Slot(board.Timer(model.once), 60.0)
    assert board.energy_of(moving, 60.0) != {}
    runs = model.runs
    assert board.energy_of(moving, 1.5) == {}
    assert model.runs == runs
    model.beside = lambda runs: (zone / "energy_uj").unlink(missing_ok=True)
    assert board.energy_of(moving, 60.0) == {}


def test_loading_an_engine_does_not_count_as_its_run() -> None:
    joules, running = [0.0], object.__new__(board.EngineSlot)

    def run(seconds: float) -> tuple[list[float], float]:
        joules[0] += 50.0 + 8.0 * seconds  # loading, and eight watts
        return [10.0] * round(100 * seconds), 10.0

    running.run = run  # type: ignore[method-assign]
    meter = SimpleNamespace(start=lambda: joules.__setitem__(0, 0.0), stop=lambda: joules[0])
    spent, runs = running.energy(meter)
    assert (spent, runs) == (pytest.approx(24.0), 300)


def test_each_run_of_the_model_is_compared_with_the_two_that_it_lies_between() -> None:
    given = iter([10.0, 4.0, 14.0, 5.0, 6.0])  # R M R M R
    slot = SimpleNamespace(run=lambda: ([1.0], next(given)))
    found = board.take_turns([slot, slot], 2, 60.0, least=1, most=2)
    assert found.ratios == [(10.0 + 14.0) / 2 / 4.0, (14.0 + 6.0) / 2 / 5.0]


def test_the_stated_error_is_how_far_the_speed_up_strays_from_run_to_run() -> None:
    rng, ratios, errors = np.random.default_rng(0), [], []
    for _ in range(2000):
        turns = board.Turns()
        turns.beside = [([], ms) for ms in rng.normal(100.0, 2.0, 46)]
        turns.own = [([], ms) for ms in rng.normal(100.0, 2.0, 45)]
        ratios.append(np.median(turns.ratios))
        errors.append(turns.error_pct())
    assert np.mean(errors) == pytest.approx(100 * np.std(ratios), rel=0.08)


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
