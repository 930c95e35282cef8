"""`autotok calibrate`: what it prints, what it writes, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autotok.predicting import calibrate as calibrating
from autotok.predicting import calibration_run as calibration_run
from autotok.predicting import memory_fit

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--backbone", "tiny", "--measurements", "10", "--minutes", "0.5")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "drawable_methods", lambda facts: ["topk", "evit", "random"])
    monkeypatch.setattr(calibration_run, "MOST_S", 0.2)
    monkeypatch.setattr(calibrating, "CANDIDATES", 2)
    sizes = iter(range(300, 2000, 50))
    monkeypatch.setattr(memory_fit, "footprint", lambda *_, **__: float(next(sizes)))


@pytest.mark.slow
def test_a_machine_is_calibrated_and_its_file_can_be_used(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    code, out, err = run("calibrate", *QUICK, "-o", path, "-q")
    assert code == 0, err
    assert "% within 5 %" in out
    assert "rank correlation" in out
    assert f"--target {path}" in out
    assert run("targets", "validate", path)[:2] == (0, f"{path}: a valid target named 'mine'\n")
    code, out, _ = run("targets", "show", path, "--json")
    assert code == 0
    assert {point["role"] for point in json.loads(out)["points"]} == {"kept aside, then fitted"}
    code, out, _ = run("calibrate", *QUICK, "-o", path, "--json")
    assert code == 0
    assert json.loads(out)["measurements"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measurements", "61"), "measurements is 61; a calibration takes at most 60"),
        (("--measurements", "9"), "measurements is 9; give at least 10"),
        (("--minutes", "6"), "minutes is 6; give 0.5 to 5"),
        (("-o", "mine.txt"), "output 'mine.txt' must end in .yaml"),
        (("-o", "nowhere/mine.yaml"), "the folder 'nowhere' does not exist"),
        (("--target", "ssh://me@board", "--minutes", "61"), "minutes is 61; give 0.5 to 60 for a"),
        (("--target", "moon"), "target 'moon' cannot be calibrated; give 'local', ssh://user@host"),
        (("--target", "jetson-nx"), "a known target to start from with --base"),
        (("--target", "ssh://"), "is no ssh address; write ssh://user@host[:port]"),
        (("--target", "ssh://me@board?runtime=onnx"), "did you mean 'onnxruntime'"),
        (("--target", "ray:"), "must be ray:RESOURCE"),
        (("--base", "moon"), "target 'moon' is unknown"),
        (("-b", "tiny", "-b", "tinny"), "backbone 'tinny' is unknown; did you mean 'tiny'"),
        (
            ("--target", "ssh://me@board?runtime=trtexec&dtype=float16"),
            "base 'local' has no peak for float16",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run("calibrate", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_calibration_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "notes.yaml"
    path.write_text("milk: 2\n")
    code, _, err = run("calibrate", "-o", path)
    assert code == 2
    assert "exists and is no calibrated target" in err
    assert path.read_text() == "milk: 2\n"
