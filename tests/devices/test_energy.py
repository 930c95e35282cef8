"""Energy counters, from made-up system folders and a made-up NVML."""

import sys
import time
import types
from pathlib import Path

import pytest
import torch
from sensors import jetson, old_jetson, package, write

from autotok.devices import energy
from autotok.devices.board import Meter
from autotok.devices.energy import energy_mj, meter_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_machine_without_counters_has_none(tmp_path: Path) -> None:
    assert meter_of(CPU, sysfs=tmp_path) is None
    assert meter_of(torch.device("meta"), sysfs=tmp_path) is None


def test_rapl_adds_up_packages_and_leaves_out_their_parts(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 100), package(tmp_path, 1, 200)
    package(tmp_path, 2, 9999, name="psys")
    write(tmp_path / "class/powercap/intel-rapl:0:0", name="package-core", energy_uj=7)
    meter = meter_of(CPU, sysfs=tmp_path)
    assert meter is not None
    assert meter.source == "RAPL, 2 processor packages"
    meter.start()
    write(first, energy_uj=300_100)
    write(second, energy_uj=200_200)
    assert meter.stop() == pytest.approx(0.5)


def test_a_counter_that_begins_anew_in_between_is_still_right(tmp_path: Path) -> None:
    zone = package(tmp_path, 0, 900_000)
    meter = meter_of(CPU, sysfs=tmp_path)
    assert meter is not None
    meter.start()
    write(zone, energy_uj=100_000)
    assert meter.stop() == pytest.approx(0.2)


def test_a_counter_that_only_the_administrator_may_read_is_none(tmp_path: Path) -> None:
    (package(tmp_path, 0, 5) / "energy_uj").unlink()
    assert meter_of(CPU, sysfs=tmp_path) is None


def test_a_jetson_is_read_at_the_rail_that_feeds_the_board(tmp_path: Path) -> None:
    jetson(tmp_path)
    meter = meter_of(CPU, sysfs=tmp_path)
    assert meter is not None
    assert meter.source == "INA3221, VDD_IN"
    meter.start()
    begin = time.perf_counter()
    while time.perf_counter() < begin + 0.05:
        pass
    joules, seconds = meter.stop(), time.perf_counter() - begin
    assert joules == pytest.approx(10.0 * seconds, rel=0.2)


def test_an_older_jetson_without_such_a_rail_adds_its_rails_up(tmp_path: Path) -> None:
    old_jetson(tmp_path)
    meter = meter_of(CUDA, sysfs=tmp_path)
    assert meter is not None
    assert meter.source == "INA3221, CPU + GPU"
    assert meter.read() == pytest.approx(4.5)


def test_a_gpu_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, asked = types.ModuleType("pynvml"), []
    used = iter([1000, 1000, 4000])  # millijoules since the driver was loaded
    nvml.nvmlInit = lambda: None  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetHandleByUUID = asked.append  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetHandleByIndex = asked.append  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetPowerUsage = lambda handle: 5000  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(used)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(energy, "_uuid", lambda device: "ab-cd")
    meter = meter_of(CUDA)
    assert meter is not None
    assert asked == ["GPU-ab-cd"]
    meter.start()
    assert meter.stop() == pytest.approx(3.0)


def test_energy_is_that_of_one_run_and_a_counter_that_stands_still_gives_none() -> None:
    runs: list[int] = []
    meter = Meter("two joules a run", lambda: [2e6 * len(runs)], [0.0])
    assert energy_mj(lambda: runs.append(1), meter, seconds=0.01) == pytest.approx(2000.0)
    assert len(runs) > 3
    still = Meter("broken", lambda: [5.0], [0.0])
    assert energy_mj(lambda: None, still, seconds=0.01) is None
