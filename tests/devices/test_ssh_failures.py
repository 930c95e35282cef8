"""Boards behind ssh that are gone, slow, silent or unsuitable: one sentence each, nothing left."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sshd as server
from small_files import SHAPE, needs_sshd, one_sentence, onnx_file

from autotok.devices.measurement import MeasurementFailed
from autotok.devices.ssh_board import RemoteDevice
from autotok.errors import ConfigError, DeviceUnreachable


@needs_sshd
def test_a_greeting_on_the_line_is_passed_over(board: server.Board) -> None:
    board.command("greeting", 'echo "Welcome to the board"; echo "{}"')
    path = board.bin / "greeting"
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    assert device.hello().runtimes.keys() == {"onnxruntime"}
    device.close()


@needs_sshd
@pytest.mark.slow
def test_a_dropped_connection_is_made_again_and_the_measurement_repeated(
    device: RemoteDevice, board: server.Board, tmp_path: Path
) -> None:
    small = onnx_file(tmp_path / "small.onnx", repeats=4000)
    device.hello()
    assert len(board.sessions) >= 1

    def drop_while_it_measures() -> None:
        if server.until(lambda: len(board.workers) >= 2, 60.0):
            time.sleep(0.3)
        board.drop()

    first = board.workers
    thread = threading.Thread(target=drop_while_it_measures)
    thread.start()
    reading = device.measure(small, SHAPE, runtime="onnxruntime", rounds=40)
    thread.join()
    assert reading.runs > 0
    assert server.until(lambda: not set(first) & set(board.workers), 60.0), "still on the board"


@needs_sshd
def test_a_drop_in_mid_measurement_leaves_nothing_on_the_board(
    board: server.Board, tmp_path: Path
) -> None:
    slow = onnx_file(tmp_path / "slow.onnx", repeats=40_000, width=256)
    device = RemoteDevice(board.address(), pauses_s=())
    device.hello()

    def drop() -> None:
        server.until(lambda: len(board.workers) >= 2, 60.0)
        board.drop()

    thread = threading.Thread(target=drop)
    thread.start()
    with pytest.raises(DeviceUnreachable, match=r"does not answer .*tried 1 time") as caught:
        device.measure(slow, SHAPE, runtime="onnxruntime", rounds=500)
    thread.join()
    assert caught.value.exit_code == 4
    assert board.left_behind == []
    assert server.until(lambda: not board.workers, 60.0)


@needs_sshd
def test_a_device_that_is_gone_is_unreachable_after_the_last_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, server.sshd(folder) as board:
        patch.setenv("AUTOTOK_SSH", f"ssh -F {folder / 'config'}")
        device = RemoteDevice(board.address(), pauses_s=(0.05,))
        device.hello()
        sessions = board.sessions
        server.stop(board)
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        small = onnx_file(tmp_path / "small.onnx")
        with pytest.raises(DeviceUnreachable, match="tried 2 times") as caught:
            device.measure(small, SHAPE, runtime="onnxruntime")
        assert one_sentence(caught.value)
        device.close()


@needs_sshd
def test_a_key_that_is_not_known_there_is_told_at_once(
    board: server.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
    )
    text = (board.folder / "config").read_text()
    text = text.replace(str(board.folder / "user"), str(tmp_path / "other"))
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("AUTOTOK_SSH", f"ssh -F {tmp_path / 'config'}")
    with pytest.raises(DeviceUnreachable, match=r"Permission denied.*tried 1 time\)"):
        RemoteDevice(board.address(), pauses_s=(60.0,)).hello()


@needs_sshd
@pytest.mark.slow
def test_a_slow_device_is_waited_for(board: server.Board, tmp_path: Path) -> None:
    path = board.command("slow", "sleep 0.8")
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    small = onnx_file(tmp_path / "small.onnx")
    reading = device.measure(small, SHAPE, runtime="onnxruntime", rounds=3)
    device.close()
    assert reading.runs >= 3


@needs_sshd
def test_a_measurement_that_takes_too_long_is_given_up_in_one_sentence(
    device: RemoteDevice, board: server.Board, tmp_path: Path
) -> None:
    slow = onnx_file(tmp_path / "slow.onnx", repeats=1_000_000, width=64)
    with pytest.raises(MeasurementFailed, match="after 2 s; give it more time") as caught:
        device.measure(slow, SHAPE, runtime="onnxruntime", timeout_s=2.0)
    assert one_sentence(caught.value)
    assert server.until(lambda: len(board.workers) == 1, 60.0), "the measurement still runs"
    small = onnx_file(tmp_path / "small.onnx")
    assert device.measure(small, SHAPE, runtime="onnxruntime", rounds=3).runs >= 3


@needs_sshd
@pytest.mark.slow
def test_a_board_that_falls_silent_is_given_up(
    board: server.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.devices.ssh_link.SILENCE_S", 1.0)
    device = RemoteDevice(board.address(), pauses_s=())
    device.hello()
    (worker,) = board.workers
    os.kill(worker, signal.SIGSTOP)
    try:
        with pytest.raises(DeviceUnreachable, match="silent for 1 s"):
            device.measure(onnx_file(tmp_path / "s.onnx"), SHAPE, runtime="onnxruntime")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert board.left_behind == []


@needs_sshd
@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("exit 1", "older than 3.6 or does not run"),
        ('case "$2" in *version_info*) exit 1;; esac', "older than 3.6"),
    ],
)
def test_an_unsuitable_python_is_one_sentence(board: server.Board, first: str, words: str) -> None:
    path = board.command("odd", first)
    with pytest.raises(ConfigError, match=words) as caught:
        RemoteDevice(board.address(f"python={path}"), pauses_s=()).hello()
    assert one_sentence(caught.value)
    assert board.left_behind == []


@needs_sshd
def test_a_missing_python_is_one_sentence(board: server.Board) -> None:
    with pytest.raises(ConfigError, match=r"has no 'python3\.99'; name a Python 3\.6") as caught:
        RemoteDevice(board.address("python=python3.99"), pauses_s=()).hello()
    assert one_sentence(caught.value)


@needs_sshd
def test_a_missing_runtime_is_one_sentence(board: server.Board, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    path = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(ConfigError, match=r"has no runtime .*No module named 'torch'") as caught:
        RemoteDevice(board.address(f"python={path}"), pauses_s=()).hello()
    assert one_sentence(caught.value)
    assert board.left_behind == []


@needs_sshd
def test_running_out_of_memory_on_the_board_is_one_sentence(
    board: server.Board, tmp_path: Path
) -> None:
    path = board.command("tight", "ulimit -v 1500000")
    device = RemoteDevice(board.address(f"python={path}&runtime=onnxruntime"), pauses_s=())
    huge = onnx_file(tmp_path / "huge.onnx", repeats=5_000_000)  # 3.8 GB
    with pytest.raises(MeasurementFailed, match=r"ran out of memory .* compress more") as caught:
        device.measure(huge, SHAPE, runtime="onnxruntime")
    assert one_sentence(caught.value)
    small = onnx_file(tmp_path / "small.onnx")
    assert device.measure(small, SHAPE, runtime="onnxruntime", rounds=3).runs >= 3
    device.close()
    assert board.left_behind == []


@pytest.mark.slow
@needs_sshd
def test_a_file_that_the_runtime_refuses_names_another_runtime_or_version(
    device: RemoteDevice, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(MeasurementFailed, match="onnxruntime cannot load this model") as caught:
        device.measure(broken, SHAPE, runtime="onnxruntime")
    assert one_sentence(caught.value)
