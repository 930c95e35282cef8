"""`--measure-on`: finalists timed there, what the run says of them, and a device that is gone."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from torch import Tensor, nn

from autotok.api.models import macs
from autotok.devices import device as devices
from autotok.devices.measurement import Measurement
from autotok.errors import ConfigError, DeviceUnreachable
from autotok.report import model_report as profiles
from autotok.searching.engines.base import Workers
from autotok.searching.engines.workers import ProcessEngine
from autotok.searching.running.engine_choice import make_engine

Run = Callable[..., tuple[int, str, str]]
TINY = ("--backbone", "tiny", "--data", "digits")
QUICK = ("--trials", "4", "--max-images", "40", "--timeout", "0", "--finetunes", "0")
ASKED = (
    "search",
    *TINY,
    *QUICK,
    "--budget",
    "60%",
    "--target",
    "jetson-nx",
    "--measure-on",
    "ssh://fake",
)


class FakeDevice:
    """Answers with made-up figures, as long as it is there."""

    name = "fake"

    def __init__(self) -> None:
        self.answers, self.left, self.measured = True, 10**6, 0

    def check(self) -> str:
        if not self.answers:
            raise DeviceUnreachable("device 'fake' does not answer; see that it is on")
        return "a made-up board"

    def measure(self, model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        if self.measured >= self.left:
            raise DeviceUnreachable("device 'fake' does not answer; see that it is on")
        self.measured += 1
        return Measurement(
            latency_ms=30.0 + self.measured, p90_ms=33.0, mad_ms=0.3, runs=15, verdict="steady",
            reference_latency_ms=60.0, speedup=2.0, peak_memory_mb=150.0, memory_source="made up",
            device="fake (a made-up board)", runtime="onnxruntime 1.18", dtype="float32", batch=1,
            image_shape=(3, 32, 32), threads=4, when="2026-01-01T00:00:00+00:00", energy_mj=90.0,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    found = FakeDevice()
    for module in (devices, profiles):
        monkeypatch.setattr(module, "open_device", lambda text, **more: found)
    return found


# --- what the run says


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_finalists_are_measured_and_every_figure_says_what_it_is(
    fake: FakeDevice, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    code, out, err = run(*ASKED, "-o", folder)
    assert code == 0, err
    assert "measuring on the device: none" in err
    told = " ".join(out.split())
    assert "configurations were measured on fake (a made-up board), onnxruntime 1.18" in told
    assert "PREDICTIONS WERE OFF: measured latency is" in told
    assert set(pd.read_csv(folder / "pareto.csv")["latency_is"]) == {"measured"}
    trials = pd.read_csv(folder / "trials.csv")
    for column in ("latency_is", "memory_is"):
        words = trials[column].dropna()
        assert {"measured", "predicted"} == {word.split(",")[0] for word in words}
        assert all(
            "checked" in word or "corrected by" in word
            for word in words
            if word.startswith("predicted")
        )
    page = (folder / "report.html").read_text()
    assert "measured on fake)" in page
    assert "PREDICTIONS WERE OFF" in page
    assert "--measure-on ssh://fake" in page
    readme = (folder / "best" / "README.md").read_text()
    assert "ms, measured on fake (a made-up board) (onnxruntime 1.18, float32" in readme
    code, out, _ = run("pareto", folder, "--json")
    assert json.loads(out)["measuring"]["corrections"]["latency_ms"] > 1.1


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_terminal_config_table_and_report_state_one_limit(
    fake: FakeDevice, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = fake.measure

    def by_cost(model: nn.Module, images: Tensor, reference: nn.Module | None) -> Measurement:
        latency = 100 * macs(model).macs_g  # far from any prediction
        return dataclasses.replace(measure(model, images, reference), latency_ms=latency)

    monkeypatch.setattr(fake, "measure", by_cost)
    # on a model large enough for its predictions to follow its cost
    few = ("--methods", "tome", "--trials", "2", "--max-images", "8", "--timeout", "0")
    folder = tmp_path / "run"
    asked = ("search", *few, "--finetunes", "0", *ASKED[-6:], "--budget", "95%latency")
    code, out, err = run(*asked, "-o", folder)
    assert code == 0, err
    share, limit = yaml.safe_load((folder / "config.yaml").read_text())["budgets"]
    assert re.fullmatch(r"95%latency = [\d.]+ ms per batch on the target", limit)
    assert f"budget: {share}; {limit}" in err
    assert f"budget: {limit}" in " ".join(out.split())
    assert f"{share}; {limit}" in (folder / "report.html").read_text()
    assert len(set(re.findall(r"95%latency = [\d.]+ ms", out + err))) == 1
    code, again, err = run("resume", folder, "--timeout", "0")
    assert len(set(re.findall(r"95%latency = [\d.]+ ms", out + again + err))) == 1


def test_without_a_device_everything_is_labelled_a_prediction(run: Run, finished_run: Path) -> None:
    folder = finished_run
    code, out, _ = run("pareto", folder)
    assert code == 0
    assert "predictions, not measurements: target jetson-nx" in " ".join(out.split())
    front = pd.read_csv(folder / "pareto.csv")
    assert front["latency_is"].str.match(r"predicted, (un)?checked").all()
    assert front["memory_is"].str.match(r"predicted, (un)?checked").all()
    readme = (folder / "best" / "README.md").read_text()
    assert re.search(
        r"Latency: .* ms, predicted for jetson-nx \(PyTorch eager float32, checked.*\), not",
        readme,
    )
    page = (folder / "report.html").read_text()
    assert re.search(r"latency ms \(predicted for jetson-nx, PyTorch eager float32, checked", page)


# --- a device that is not there, or no longer


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("sshh://me@board", "did you mean 'ssh://user@host'"),
        ("ssh://-oProxyCommand=x", "is no ssh address"),
        ("ray:", "ray:RESOURCE@HOST:PORT"),
        ("local?runtime=tensorrt", "known: compile, eager, executorch, onnxruntime"),
    ],
)
def test_a_name_that_is_no_device_is_one_clear_sentence(
    device: str, words: str, run: Run, tmp_path: Path
) -> None:
    arguments: Sequence[Sequence[object]] = (
        (*ASKED[:-1], device, "-o", tmp_path / "run"),
        ("profile", "--backbone", "tiny", "--measure-on", device),
        ("doctor", "--measure-on", device),
    )
    for given in arguments:
        code, _, err = run(*given)
        assert code == 2, err
        [line] = [line for line in err.splitlines() if line.startswith("autotok:")]
        assert words in line
    assert not (tmp_path / "run").exists()


def test_a_device_that_does_not_answer_ends_a_search_before_it_begins(
    fake: FakeDevice, run: Run, tmp_path: Path
) -> None:
    fake.answers = False
    code, _, err = run(*ASKED, "-o", tmp_path / "run")
    assert code == 4
    assert err.count("autotok: device 'fake' does not answer") == 1
    assert "resume" not in err
    assert not (tmp_path / "run").exists()
    assert run("doctor", "--measure-on", "ssh://fake")[0] == 4


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_device_lost_in_mid_search_stops_it_and_a_resume_goes_on_when_it_is_back(
    fake: FakeDevice, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    fake.left = 3
    code, _, err = run(*ASKED, "-o", folder)
    assert code == 4
    [line] = [line for line in err.splitlines() if line.startswith("autotok:")]
    assert f"go on with `autotok resume {folder}`" in line
    finished = len(pd.read_csv(folder / "trials.csv"))
    fake.answers = False
    assert run("resume", folder)[0] == 4
    fake.answers, fake.left = True, 10**6
    code, _, err = run("resume", folder)
    assert code == 0, err
    assert "measuring on the device: none" not in err
    assert len(pd.read_csv(folder / "trials.csv")) == finished
    assert set(pd.read_csv(folder / "pareto.csv")["latency_is"]) == {"measured"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_resume_may_do_without_the_device(fake: FakeDevice, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fake.left = 3
    assert run(*ASKED, "-o", folder)[0] == 4
    fake.answers = False
    code, out, err = run("resume", folder, "--measure-on", "none")
    assert code == 0, err
    assert "3 configurations were measured" in " ".join(out.split())
    assert yaml.safe_load((folder / "config.yaml").read_text())["question"]["measure_on"] is None
    assert run("resume", folder)[0] == 0  # from now on, and this one is not asked


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_device_named_at_a_resume_is_the_run_s_from_then_on(
    fake: FakeDevice, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run(*ASKED[:-2], "-o", folder)[0] == 0
    fake.answers = False
    assert run("resume", folder, "--measure-on", "ssh://fake", "--trials", "5")[0] == 4
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["question"]["measure_on"] is None  # it never answered
    fake.answers, fake.left = True, 0
    assert run("resume", folder, "--measure-on", "ssh://fake", "--trials", "5")[0] == 4
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["question"]["measure_on"], config["search"]["n_trials"]) == ("ssh://fake", 5)
    fake.left = 10**6
    code, _, err = run("resume", folder)
    assert code == 0, err
    assert fake.measured
    assert set(pd.read_csv(folder / "pareto.csv")["latency_is"]) == {"measured"}


# --- profile and doctor


def test_a_profile_prints_the_reading_of_the_device(fake: FakeDevice, run: Run) -> None:
    model = ("--backbone", "tiny", "--method", "tome", "-r", "2")
    code, out, _ = run("profile", *model, "--measure-on", "ssh://fake", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["measured_latency_ms"] == 31.0
    assert report["measured_energy_mj"] == 90.0
    assert "measured_host_ms" not in report
    assert report["measurement"].startswith("measured (fake (a made-up board), onnxruntime 1.18")
    code, _, err = run("profile", *model, "--measure-on", "ssh://fake", "--runtime", "compile")
    assert code == 2
    assert "is for the local device" in err


def test_doctor_asks_the_device(fake: FakeDevice, run: Run) -> None:
    code, out, _ = run("doctor", "--measure-on", "ssh://fake")
    assert code == 0
    assert "a made-up board" in out


# --- a trial that hangs


def test_a_trial_timeout_takes_a_process_and_ray_refuses_it(tmp_path: Path) -> None:
    how = {"factory": _nothing, "directory": tmp_path}
    assert make_engine(Workers(1), **how) is None  # type: ignore[arg-type]
    engine = make_engine(Workers(1), trial_timeout_s=3.0, **how)  # type: ignore[arg-type]
    assert isinstance(engine, ProcessEngine)
    engine.close()
    with pytest.raises(ConfigError, match="--trial-timeout works with --engine local"):
        make_engine(Workers(1, "ray"), trial_timeout_s=3.0, **how)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_search_with_a_trial_timeout_keeps_it_for_its_resume(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, _, err = run(*ASKED[:-4], "--trial-timeout", "100", "-o", folder)
    assert code == 0, err
    assert "trial_timeout_s: 100" in (folder / "config.yaml").read_text()
    assert set(pd.read_csv(folder / "trials.csv")["state"]) <= {"complete", "duplicate"}


def _nothing() -> None:
    raise AssertionError("never built")


def test_a_reading_of_an_older_board_file_is_read(fake: FakeDevice) -> None:
    from autotok.backbones.tiny import tiny_backbone

    data = devices.measure_on(fake, tiny_backbone()).to_dict()
    del data["energy_mj"], data["prolonged"]
    found = Measurement.from_dict(data)
    assert dataclasses.asdict(found)["energy_mj"] is None


@pytest.mark.parametrize(
    "command", ["search", "profile", "doctor", "evaluate", "finetune", "resume x"]
)
@pytest.mark.parametrize("former", ["local", "ssh://me@board", "ray:jetson"])
def test_the_old_spelling_of_measure_on_is_answered_with_the_new_one(
    run: Run, command: str, former: str
) -> None:
    code, _, err = run(*command.split(), "--device", former)
    assert code == 2
    assert err.count("\n") == 1
    assert f"write --measure-on {former}" in err


def test_a_device_that_is_not_here_is_named_with_those_that_are(run: Run) -> None:
    code, _, err = run("evaluate", "--backbone", "tiny", "--data", "digits", "--device", "cuda:99")
    assert code == 2
    assert "device 'cuda:99' is not here; there is cpu" in err
    for verb in ("search", "finetune --method tome --keep 0.5@1", "supernet eval"):
        code, _, err = run(*verb.split(), "--device", "cuda:99")
        assert code == 2
        assert "device 'cuda:99' is not here; there is cpu" in err
    code, _, err = run("search", "--precision", "bf16")
    assert code == 2
    assert "precision 'bf16' is unknown; did you mean 'bfloat16'?" in err
    code, _, err = run("evaluate", "--device", "gpu")
    assert code == 2
    assert "device 'gpu' is unknown" in err
