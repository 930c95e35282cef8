"""Calibrating a device through the Python door and the command line: fakes, then a real sshd."""

import dataclasses
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from torch import Tensor, nn

from autotok import cli
from autotok.devices import device as devices
from autotok.devices.measurement import Measurement
from autotok.errors import DeviceUnreachable, ExportError
from autotok.predicting import calibrate as calibrating
from autotok.predicting import calibration as module
from autotok.predicting.calibration import calibrate, plan_of
from autotok.predicting.measurers import this_machine
from autotok.predicting.predict import conditions, predict_trace, provenance
from autotok.predicting.target import load_target
from autotok.predicting.trace import trace

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))

import sshd as server

needs_sshd = pytest.mark.skipif(bool(server.WHY_NOT), reason=server.WHY_NOT or "-")
METHODS = ["evit", "random", "tofu", "tome", "topk"]
BOARD = "ssh://me@board?runtime=onnxruntime"
QUICK = ("-b", "tiny", "--measurements", "10")


class FakeBoard:
    """Answers with made-up figures until it is gone."""

    name = "ssh://me@board"

    def __init__(self) -> None:
        self.left, self.closed, self.asked = 10**6, False, list[str]()

    def check(self) -> str:
        if not self.left:
            raise DeviceUnreachable("device 'ssh://me@board' does not answer; see that it is on")
        return "a made-up board, 4 cores, Python 3.8, onnxruntime 1.18"

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        if len(self.asked) >= self.left:
            raise DeviceUnreachable("device 'ssh://me@board' does not answer; see that it is on")
        method = str(model.config.method)  # type: ignore[union-attr]
        self.asked.append(method)
        logging.getLogger("autotok.export.exported").warning("the file disagrees with torch")
        if method == "evit":
            raise ExportError("no importer for an operator of this method")
        seen = trace(model)  # type: ignore[arg-type]
        own = 0.5 + 0.01 * seen.launches
        return Measurement(
            latency_ms=own, p90_ms=own, mad_ms=0.01, runs=15, verdict="steady",
            reference_latency_ms=2.0, speedup=2.0 / own,
            peak_memory_mb=80 + (seen.weight_bytes + seen.peak_live_bytes) / 1e6,
            memory_source="made up", device=f"{self.name} (a made-up board)",
            runtime="onnxruntime 1.18 CPUExecutionProvider", dtype="float32", batch=len(images),
            image_shape=(3, 32, 32), threads=4, when="2026-01-01T00:00:00+00:00",
        )  # fmt: skip

    def settle(self) -> str:
        return "onnxruntime"

    def memory_mb(self) -> float | None:
        return None

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "drawable_methods", lambda facts: [*METHODS, "ltp", "ats"])
    monkeypatch.setattr(calibrating, "CANDIDATES", 2)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    found = FakeBoard()
    monkeypatch.setattr(module, "open_device", lambda text: found)
    return found


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotok", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def test_a_board_s_target_file_is_written_from_its_readings(
    fake: FakeBoard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "board.yaml"
    plan = plan_of(target=BOARD, measurements=12, backbones=("tiny",))
    with caplog.at_level(logging.WARNING):
        found = calibrate(BOARD, output=path, base="jetson-nx", plan=plan)
    assert fake.closed
    assert "ats" not in fake.asked  # it cannot be exported
    assert fake.asked.count("evit") <= 2
    assert any(line.startswith("passed over: tiny evit") for line in caplog.messages)
    assert "the file disagrees with torch" not in caplog.messages
    target, base = load_target(path), load_target("jetson-nx")
    record = target.calibration
    assert record is not None
    assert record.machine == "a made-up board, 4 cores, Python 3.8, onnxruntime 1.18"
    assert record.runtime == "onnxruntime 1.18 CPUExecutionProvider"
    assert (record.threads, record.measurements, record.memory_points) == (4, 12, 12)
    assert "me@board" not in path.read_text()
    assert (target.kind, target.memory_mb) == (base.kind, base.memory_mb)  # the fake tells none
    assert not target.setting().fused_attention
    assert target.setting().runtime_base_mb.value == pytest.approx(80, rel=0.05)
    row = found.found.fitted[0]
    again = predict_trace(trace(calibrating.load_structure("tiny"), fused_attention=False), target)
    assert again.latency_ms == pytest.approx(row.latency_ms, rel=0.1)
    assert found.to_dict()["machine"] == "a made-up board"
    told = "\n".join(found.sentences())
    assert "a made-up board, onnxruntime 1.18" in told
    assert "asked for" not in told


def test_time_that_ran_short_is_told(fake: FakeBoard, tmp_path: Path) -> None:
    plan = dataclasses.replace(
        plan_of(target=BOARD, measurements=30, backbones=("tiny",)), seconds=0.1
    )
    found = calibrate(BOARD, output=tmp_path / "board.yaml", plan=plan)
    assert "time was too short for the 30 asked for" in "\n".join(found.sentences())
    assert found.to_dict()["measurements"] == 10
    assert found.to_dict()["rank_correlation"] is None
    assert "rank correlation of too few" in "\n".join(found.sentences())


def test_a_device_may_take_longer_than_this_machine() -> None:
    assert plan_of().seconds == 288.0
    assert plan_of(target="ray:board").seconds == 888.0
    assert plan_of(target="ssh://me@board", minutes=60).seconds == 3588.0


@pytest.mark.parametrize("left", [0, 4])
def test_a_dead_board_ends_it_with_exit_code_4_and_nothing_is_written(
    fake: FakeBoard, run: Callable[..., tuple[int, str, str]], tmp_path: Path, left: int
) -> None:
    fake.left, path = left, tmp_path / "board.yaml"
    code, out, err = run("calibrate", "--target", BOARD, *QUICK, "-o", path, "-q")
    assert code == 4
    assert err.count("device 'ssh://me@board' does not answer") == 1
    assert out == ""
    assert not path.exists()
    assert fake.closed


def test_the_file_is_named_after_the_board_by_default(
    fake: FakeBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(target=BOARD, measurements=10, backbones=("tiny",))
    assert calibrate(BOARD, plan=plan).path == Path("calibrated-board.yaml")
    assert module._short("ray:nano@10.0.0.1:6379") == "nano"


def test_a_runtime_whose_memory_holds_more_than_the_model_is_calibrated_without(
    fake: FakeBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = fake.measure
    shared = lambda *given: dataclasses.replace(alone(*given), memory_alone=False)  # noqa: E731
    monkeypatch.setattr(fake, "measure", shared)
    target, path = "local?runtime=onnxruntime", tmp_path / "mine.yaml"
    calibrate(
        target, output=path, plan=plan_of(target=target, measurements=10, backbones=("tiny",))
    )
    record = load_target(path).calibration
    assert record is not None
    assert (record.memory_points, record.memory_worst_pct) == (0, None)


def test_this_machine_in_a_runtime_of_files_is_calibrated_like_a_board(
    fake: FakeBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    target = "local?runtime=onnxruntime"
    plan = plan_of(target=target, measurements=10, backbones=("tiny",))
    found = calibrate(target, plan=plan)
    assert found.path == Path("calibrated-local-onnxruntime.yaml")
    assert "ats" not in fake.asked  # it cannot be exported
    made = load_target(found.path)
    record = made.calibration
    assert record is not None
    assert record.machine == this_machine().account
    assert record.memory_points == 10  # each in a process of the file's own
    assert not made.setting().fused_attention
    assert conditions(made) == "onnxruntime 1.18 CPUExecutionProvider float32"
    assert conditions(made) in provenance(made)


def test_a_runtime_that_there_is_not_is_refused_and_one_belongs_to_this_machine(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, err = run("calibrate", "--runtime", "onnxrumtime")
    assert code == 2
    assert "runtime 'onnxrumtime' is unknown; did you mean 'onnxruntime'?" in err
    code, _, err = run("calibrate", "--runtime", "openvino", "--target", "ssh://me@board")
    assert code == 2
    assert "--runtime openvino is for the local device; device 'ssh://me@board'" in err


# --- a real one


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[server.Board]:
    monkeypatch.setenv("AUTOTOK_SSH", f"ssh -F {tmp_path / 'config'}")
    with server.sshd(tmp_path) as found:
        yield found


@needs_sshd
@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="no onnxruntime here")
@pytest.mark.usefixtures("quick_files")
def test_a_board_is_calibrated_over_ssh(
    board: server.Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "ROUNDS", 3)
    monkeypatch.setattr(calibrating, "drawable_methods", lambda facts: ["topk", "random"])
    path, address = tmp_path / "nano.yaml", board.address()
    plan = plan_of(target=address, measurements=10, minutes=2, backbones=("tiny",))
    found = calibrate(address, output=path, plan=plan).found
    assert len(found.fitted) + len(found.held_out) == 10
    assert found.machine.runtime.startswith("onnxruntime")
    assert found.memory is not None
    record = load_target(path).calibration
    assert record is not None
    assert "Python 3" in record.machine
    assert yaml.safe_load(path.read_text())["memory_mb"]["value"] > 500
    assert board.left_behind == []


@needs_sshd
@pytest.mark.slow
def test_a_board_that_is_switched_off_is_exit_code_4(
    board: server.Board, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    server.stop(board)
    path = tmp_path / "off.yaml"
    code, _, err = run("calibrate", "--target", board.address(), "-o", path, "-q")
    assert code == 4
    assert "does not answer" in err
    assert not path.exists()
