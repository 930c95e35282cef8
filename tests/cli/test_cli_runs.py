"""The command line as users meet it: what it prints, what it writes, how it fails."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.main import get_command

import autotok
from autotok.cli.runs import app
from autotok.searching.proposing.identity import STUDY_NAME

Run = Callable[..., tuple[int, str, str]]
TINY = ("--backbone", "tiny", "--data", "digits")
QUICK = ("--trials", "4", "--max-images", "40", "--timeout", "0")


def test_help_says_what_the_study_is_called_with_and_without_a_storage() -> None:
    options = get_command(app).commands["search"].params  # type: ignore[attr-defined]
    told = next(option.help for option in options if option.name == "study")
    assert f"by default '{STUDY_NAME}' in the run's journal file" in told
    assert told.endswith("a new one in --storage.")


def test_a_search_writes_the_whole_run_directory(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert {
        "config.yaml", "env.json", "study.log", "trials.csv", "pareto.csv", "pareto.json",
        "pareto.png", "report.html", "best.yaml", "best",
    } <= names  # fmt: skip
    front = pd.read_csv(finished_run / "pareto.csv")
    assert len(front) >= 1
    assert front["within_budget"].all()
    assert (front["macs"] == front["macs_counted"]).all()
    check = json.loads((finished_run / "best" / "check.json").read_text())
    assert check["exports"]["onnx"]["ok"]
    page = (finished_run / "report.html").read_text()
    assert "random" in page
    with Image.open(finished_run / "pareto.png") as picture:
        assert picture.size[0] > 400


@pytest.mark.usefixtures("no_onnx", "quick_files")
def test_the_best_is_rebuilt_evaluated_profiled_and_exported(own_run: Path, run: Run) -> None:
    best = own_run / "best.yaml"
    code, out, _ = run("profile", best, "--check", "--no-measure", "--json")
    assert code == 0
    assert json.loads(out)["check"] == "equal"
    code, out, _ = run("evaluate", best, "--data", "digits", "--images", "20", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["num_images"] == 20
    assert report["low_95"] <= report["value"] <= report["high_95"]
    code, out, _ = run("export", best, "-o", own_run / "again.onnx", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    code, out, _ = run("compress", best, "-o", own_run / "bundle", "--json")
    assert code == 0
    assert (own_run / "bundle" / "weights.safetensors").is_file()


def test_pareto_shows_the_front_over_any_two_metrics_and_draws_it(own_run: Path, run: Run) -> None:
    code, out, _ = run("pareto", own_run, "--x", "latency", "--y", "top1")
    assert code == 0
    assert "latency [ms]" in out
    assert "hypervolume of the front over latency and top-1 accuracy" in out
    with Image.open(own_run / "pareto-latency_ms-top1_pct.png") as picture:
        assert picture.width >= 1000
    code, out, _ = run("pareto", own_run, "--x", "throughput", "--json")
    found = json.loads(out)
    assert (code, found["metrics"]) == (0, ["throughput_img_s", "top1_pct"])
    trials = pd.read_csv(own_run / "trials.csv").query("state == 'complete'")
    shown = [point["throughput_img_s"] for point in found["front"]]
    assert max(shown) == pytest.approx(trials["throughput_img_s"].max())
    assert shown == sorted(shown, reverse=True)
    code, _, err = run("pareto", own_run, "--x", "latencey")
    assert (code, "did you mean 'latency'" in err) == (2, True)
    code, _, err = run("pareto", own_run, "--x", "kl")
    assert (code, "judged top1, not kl" in err) == (2, True)
    code, _, err = run("pareto", own_run, "--x", "energy")
    assert (code, "--objective energy" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_search_over_three_objectives_at_a_batch_answers_in_them(
    tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "rates"
    asked = ("--objective", "top1", "--objective", "latency", "--objective", "throughput")
    budget = ("--budget", "110%throughput", "--target", "x86-desktop", "--batch", 64)
    code, out, _ = run("search", *TINY, *QUICK, *budget, *asked, "--finetunes", 0, "-o", folder)
    assert code == 0
    assert "images per second on the target" in out
    assert "those of 64 images at a time" in " ".join(out.split())
    front = pd.read_csv(folder / "pareto.csv")
    assert (front["throughput_img_s"] - 64e3 / front["latency_ms"]).abs().max() < 1e-6
    report = (folder / "report.html").read_text()
    assert "--objective top1 --objective latency --objective throughput" in report
    assert "--batch 64" in report
    assert "throughput img/s (predicted for x86-desktop" in report
    assert "Hypervolume of the front over top-1 accuracy and latency and throughput" in report


def test_pareto_shows_front_and_control_again(finished_run: Path, run: Run) -> None:
    code, out, _ = run("pareto", finished_run)
    assert code == 0
    assert "uncompressed" in out
    assert "random pruning" in out
    assert "predictions, not measurements: target jetson-nx" in out
    code, out, _ = run("pareto", finished_run, "--json")
    assert json.loads(out)["best"]["within_budget"]


@pytest.mark.usefixtures("no_onnx")
def test_resuming_a_finished_run_changes_nothing(own_run: Path, run: Run) -> None:
    before = pd.read_csv(own_run / "pareto.csv")
    code, _, _ = run("resume", own_run, "-q")
    assert code == 0
    columns = ["config_id", "macs", "num_images"]
    after = pd.read_csv(own_run / "pareto.csv")
    pd.testing.assert_frame_equal(before[columns], after[columns])


@pytest.mark.parametrize(("flags", "asked"), [((), None), (("--timeout", "0"), 0.0)])
def test_resume_tells_a_time_limit_of_0_from_none_given(
    flags: tuple[str, ...],
    asked: float | None,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []

    def resume(folder: Path, **others: object) -> None:
        found.append(others["timeout_s"])
        raise autotok.ConfigError("that is enough")

    monkeypatch.setattr(autotok, "resume", resume, raising=False)
    assert run("resume", tmp_path, *flags)[0] == 2
    assert found == [asked]


def test_the_first_line_says_what_the_budget_means(tmp_path: Path, run: Run) -> None:
    code, out, _ = run("search", *TINY, *QUICK, "--budget", "0.0001GFLOPs", "-o", tmp_path / "r")
    assert code == 3  # nothing is that cheap; what it means was said before
    first = out.splitlines()[0]
    assert "100,000 multiply-accumulates per image, attention included" in first


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("search", "--backbone", "vit_smal_patch16_224", "--data", "demo"), 2, "did you mean"),
        (("search", "--backbone", "swin_tiny_patch4_window7_224", "--data", "x"), 2, "windows"),
        (("search", "--backbone", "autoformer_small", "--data", "demo"), 2, "--checkpoint"),
        (("search", "--backbone", "tiny"), 2, "give --data"),
        (("search", "--backbone", "autoformer_dem"), 2, "did you mean 'autoformer_demo'"),
        (("search", *TINY, "--target", "jetson-xn"), 2, "did you mean 'jetson-nx'"),
        (("search", *TINY, "--budget", "26parsecs"), 2, "unit"),
        (("search", *TINY, "--budget", "-3G"), 2, "budget"),
        (("search", *TINY, "--budget", "26ms"), 2, "--target"),
        (("search", *TINY, "--space", "defualt"), 2, "did you mean 'default'"),
        (("search", *TINY, "--sampler", "tpee"), 2, "did you mean 'tpe'"),
        (("search", *TINY, "--quality", "top5"), 2, "known"),
        (("search", *TINY, "--budget", "0.0001GFLOPs"), 3, "or more"),
        (("search", "--backbone", "tiny", "--data", "/nowhere/at/all"), 2, "/nowhere/at/all"),
        (("profile", "--backbone", "tiny", "--method", "tomee", "-r", "2"), 2, "'tome'"),
        (("profile", "--backbone", "tiny", "--method", "tome", "--keep", "0.5@9"), 2, "4 blocks"),
        (("profile", "--backbone", "tiny", "--method", "tome", "--keep", "half"), 2, "RATIO@LAYER"),
        (("profile", "--backbone", "tiny", "--method", "tome", "--keep", "0.2@1"), 2, "feasible"),
        (("profile", "no-such.yaml"), 2, "no-such.yaml"),
        (("export", "--backbone", "tiny", "-o", "x.onx", "--format", "onxx"), 2, "onnx"),
        (("resume", "/nowhere"), 2, "/nowhere"),
        (("pareto", "/nowhere"), 2, "/nowhere"),
        (("targets", "show", "jetson-xn"), 2, "did you mean 'jetson-nx'"),
        (("backbones", "zzz*"), 2, "zzz"),
    ],
)
def test_mistakes_are_one_clear_sentence(
    arguments: Sequence[str], code: int, words: str, run: Run, tmp_path: Path
) -> None:
    if arguments[0] == "search":
        arguments = (*arguments, *QUICK, "-o", str(tmp_path / "run"))
    got, _, err = run(*arguments)
    assert got == code
    lines = [line for line in err.splitlines() if line.startswith("autotok:")]
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in err


def test_broken_files_are_one_clear_sentence(tmp_path: Path, run: Run) -> None:
    text = tmp_path / "weights.pth"
    text.write_text("this is prose")
    corrupt = tmp_path / "weights.safetensors"
    corrupt.write_bytes(os.urandom(200))
    empty = tmp_path / "empty"
    empty.mkdir()
    unreadable = tmp_path / "photos"
    unreadable.mkdir()
    (unreadable / "a.jpg").write_bytes(b"not a jpeg")
    wrong = tmp_path / "wrong.safetensors"
    save_file({"head.weight": torch.zeros(3, 3)}, wrong)
    model = ("search", "--backbone", "vit_tiny_patch16_224", "--data", "digits", *QUICK)
    for arguments, words in (
        ((*model, "--checkpoint", text), "not a readable weight file"),
        ((*model, "--checkpoint", corrupt), "safetensors"),
        ((*model, "--checkpoint", wrong), "does not fit"),
        (("search", "--backbone", "tiny", "--data", empty, *QUICK), "empty"),
        (("search", "--backbone", "tiny", "--data", unreadable, *QUICK), "a.jpg"),
    ):
        code, _, err = run(*arguments, "-o", tmp_path / "run")
        assert code == 2, err
        assert words in err
        assert err.count("autotok:") == 1
        assert not (tmp_path / "run").exists()


def test_an_existing_run_is_never_overwritten(finished_run: Path, run: Run) -> None:
    before = (finished_run / "pareto.csv").read_bytes()
    code, _, err = run("search", *TINY, *QUICK, "--budget", "60%", "-o", finished_run)
    assert code == 2
    assert "autotok resume" in err
    assert (finished_run / "pareto.csv").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path, run: Run) -> None:
    tmp_path.chmod(0o500)
    code, _, err = run("search", *TINY, *QUICK, "--budget", "60%", "-o", tmp_path / "run")
    tmp_path.chmod(0o700)
    assert code == 2
    assert "cannot be written" in err


def test_an_output_below_a_file_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("search", *TINY, *QUICK, "--budget", "60%", "-o", tmp_path / "file" / "run")
    assert code == 2
    assert err.count("autotok:") == 1
