"""`autotok finetune` as users meet it: what it prints and writes, how it stops and goes on."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.folding import pinned
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ExportError
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export import bundle
from autotok.export.best_yaml import BackboneRef, Bundle, read_best, write_best
from autotok.methods.tocom import Adapters
from autotok.metrics import METRICS

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--data", "digits", "--images", "30", "--batch-size", "4", "--length", "3 steps")


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def skip(*_: object, **__: object) -> None:
        raise ExportError("left out, as exporting takes long")

    monkeypatch.setattr(bundle, "export_model", skip)


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and images out of reach: what is told, is told before."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("was loaded")

    for name in ("job.load_uncompressed", "job.load_backbone", "run.load_data"):
        monkeypatch.setattr(f"autotok.report.finetune_{name}", never)
    monkeypatch.setattr("autotok.load_bundle", never, raising=False)


@pytest.fixture
def best(tmp_path: Path) -> Path:
    backbone = tiny_backbone()
    config = CompressionConfig("evit", (Reduction(0, num_keep=8), Reduction(2, num_keep=5)))
    found = Bundle(BackboneRef.of(backbone.facts), config, preprocessing_of(backbone).to_dict(), {})
    return write_best(tmp_path / "best.yaml", found)


def test_a_best_yaml_becomes_a_retrained_bundle_judged_before_and_after(
    run: Run, best: Path, tmp_path: Path
) -> None:
    out_folder = tmp_path / "out"
    code, out, err = run(
        "finetune", best, *QUICK, "-o", out_folder, "--loss", "soft=1", "--loss", "ce=0.5", "--json"
    )
    assert code == 0
    report = json.loads(out)
    assert report["before_low_95"] <= report["before"] <= report["before_high_95"]
    assert report["after_low_95"] <= report["after"] <= report["after_high_95"]
    assert (report["steps"], report["training_images"], report["num_images"]) == (3, 12, 30)
    assert report["images_per_s"] > 0
    assert "fine-tuning" in err
    found = read_best(out_folder / "best.yaml")
    assert found.config.mode == "retrain"
    assert found.config.finetune is not None
    assert dict(found.config.finetune.losses) == {"ce": 0.5, "soft": 1.0}
    assert found.config.config_id == report["config_id"]
    assert found.evidence["finetune"]["steps"] == 3
    assert found.evidence["quality"]["value"] == pytest.approx(report["after"], abs=1e-3)
    assert found.weights[0].file == "best/weights.safetensors"
    macs_g = METRICS["macs"].number(found.evidence["costs"]["macs_g"])
    assert f"- Cost: {macs_g} G mult" in (out_folder / "best" / "README.md").read_text()
    assert sorted(p.name for p in out_folder.iterdir()) == ["best", "best.yaml", "finetune.json"]


def test_a_probed_rate_is_printed_with_its_losses_and_reasons(
    run: Run, best: Path, tmp_path: Path
) -> None:
    common = ("--data", "digits", "--images", "10", "--batch-size", "4", "--length", "60 steps")
    code, out, _ = run("finetune", best, *common, "--lr", "auto", "-o", tmp_path / "o", "-q")
    assert code == 0
    evidence = read_best(tmp_path / "o" / "best.yaml").evidence["finetune"]
    words = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert float(words["lr"]) == evidence["rate"]["lr"]
    tried = evidence["rate"]["tried"]
    assert words["probe"].count(":") == len(tried) >= 1
    assert {f"{one['lr']:g}" for one in tried} <= set(words["probe"].replace(":", "").split())
    assert int(words["kept_step"]) == evidence["kept_step"]
    assert {"lr_reason", "kept_reason", "held_out_before", "held_out_after"} <= words.keys()


def test_the_result_is_evaluated_against_the_original_model(
    run: Run, best: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    assert run("finetune", best, *QUICK, "-o", tuned, "--lr", "0.01", "-q")[0] == 0
    common = ("--data", "digits", "--images", "30", "--json", "-q")
    after = json.loads(run("evaluate", tuned / "best.yaml", *common)[1])
    plain = json.loads(run("evaluate", best, *common)[1])
    assert after["finetuned"] is True
    assert after["uncompressed"] == plain["uncompressed"]
    again = yaml.safe_load((tuned / "best.yaml").read_text())
    assert after["value"] == pytest.approx(again["evidence"]["quality"]["value"], abs=1e-3)


def test_a_retrained_best_yaml_is_fine_tuned_from_the_original_weights_again(
    run: Run, best: Path, tmp_path: Path
) -> None:
    assert run("finetune", best, *QUICK, "-o", tmp_path / "one", "-q")[0] == 0
    (tmp_path / "two").mkdir()
    assert run("finetune", tmp_path / "one", *QUICK, "-o", tmp_path / "two", "-q")[0] == 0
    one, two = (read_best(tmp_path / name / "best.yaml") for name in ("one", "two"))
    assert one.config == two.config
    assert one.weights == two.weights


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loss", "sof=1"], "loss 'sof' is unknown; did you mean 'soft'"),
        (["--loss", "soft=much"], "write NAME=WEIGHT"),
        (["--length", "3 weeks"], "give '200 steps'"),
        (["--lr", "-1"], "fine-tune lr is -1.0"),
        (["--batch-size", "0"], "fine-tune batch_size is 0"),
        (["--data", "nowhere"], "data folder 'nowhere' does not exist"),
        (["--checkpoint", "none.pth"], "checkpoint 'none.pth' does not exist"),
        (["--backbone", "tinny"], "backbone 'tinny' is unknown; did you mean 'tiny'"),
        (["--lr", "fast"], "learning rate 'fast' is not understood; give a number or auto"),
        (["--precision", "bf16"], "did you mean 'bfloat16'"),
        (["--augment", "flip"], "augmentation 'flip' is unknown"),
        (["--recipe", "deet"], "recipe 'deet' is unknown; did you mean 'deit'"),
        (["--mixup", "-1"], "fine-tune mixup is -1.0"),
        (["--teacher", "resnet5O"], "teacher 'resnet5O' is unknown; did you mean 'resnet50'?"),
        (["--teacher", "tiny", "--teacher-checkpoint", "a.pth"], "checkpoint 'a.pth' does not"),
        (["--teacher-checkpoint", "a.pth"], "'a.pth' is given without a teacher"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_loaded_and_leaves_no_folder(
    run: Run, best: Path, tmp_path: Path, arguments: list[str], words: str, nothing_loads: None
) -> None:
    code, _, err = run("finetune", best, "--data", "digits", "-o", tmp_path / "o", "-q", *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_recipe_and_another_teacher_are_in_the_record_and_options_go_over_them(
    run: Run, best: Path, tmp_path: Path
) -> None:
    options = ("--recipe", "deit", "--drop-path", "0.2", "--teacher", "tiny", "--lr", "1e-5")
    code, _, err = run("finetune", best, *QUICK, *options, "-o", tmp_path / "o", "-q")
    assert code == 0, err
    spec = read_best(tmp_path / "o" / "best.yaml").config.finetune
    assert spec is not None
    assert (spec.teacher, spec.mixup, spec.drop_path) == ("tiny", 0.8, 0.2)
    assert set(spec.losses) == {"ce", "soft"}


@pytest.mark.parametrize("command", ["finetune", "compress", "export"])
def test_a_file_where_a_folder_is_to_be_is_told_before_anything_is_loaded(
    run: Run, best: Path, nothing_loads: None, command: str
) -> None:
    data = ("--data", "digits") if command == "finetune" else ()
    code, _, err = run(command, best, *data, "-o", best / "new" / "out.onnx")
    assert code == 2
    assert err.startswith(f"autotok: '{best}/new")
    assert "cannot be written" in err
    assert len(err.splitlines()) == 1


def test_unlabelled_images_are_distilled_but_not_classified(
    run: Run, best: Path, tmp_path: Path
) -> None:
    images(tmp_path / "photos", ("train", "val"))
    common = ("--data", tmp_path / "photos", "--length", "2 steps", "--batch-size", "2", "-q")
    code, _, err = run("finetune", best, *common, "--loss", "ce=1", "-o", tmp_path / "a")
    assert code == 2
    assert "'ce' needs labels" in err
    code, out, _ = run("finetune", best, *common, "-o", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["metric"] == "agreement"


def test_a_folder_must_hold_images_to_learn_from(run: Run, best: Path, tmp_path: Path) -> None:
    images(tmp_path / "val", ("val",))
    code, _, err = run("finetune", best, "--data", tmp_path / "val", "-o", tmp_path / "o")
    assert code == 2
    assert "has no sub-folder 'train'" in err


def test_divergence_says_at_which_step_and_exits_with_one(
    run: Run, best: Path, tmp_path: Path
) -> None:
    code, _, err = run(
        "finetune", best, "--data", "digits", "--images", "10", "--length", "60 steps", "--lr", "1",
        "--batch-size", "4", "-o", tmp_path / "o", "-q",
    )  # fmt: skip
    assert code == 1
    assert "fine-tuning diverged at step" in err
    assert list((tmp_path / "o").iterdir()) == []  # so that the next try may use it


def test_resuming_takes_no_other_arguments_and_needs_something_to_resume(
    run: Run, best: Path, tmp_path: Path
) -> None:
    code, _, err = run("finetune", best, "-o", tmp_path / "o", "--resume", "--lr", "1e-3")
    assert code == 2
    assert "'lr' cannot be given" in err
    code, _, err = run("finetune", best, "-o", tmp_path / "o", "--resume")
    assert code == 2
    assert "holds no fine-tune to go on with" in err


@pytest.mark.parametrize("begun", [("best.yaml",), ("-b", "tiny", "-m", "topk", "--keep", "0.5@1")])
def test_a_killed_fine_tune_goes_on_from_its_folder_alone(
    run: Run, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: tuple[str, ...]
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("autotok.training.finetune.finetune_student", killed)
        assert run("finetune", *begun, *QUICK, "-o", "o", "-q")[0] != 0
    other = ("-m", "topk", "--keep", "0.6@1")
    code, _, err = run("finetune", *other, "--resume", "-o", "o", "-q")
    assert (code, len(err.splitlines()), "holds a fine-tune of conf" in err) == (2, 1, True)
    code, _, err = run("finetune", "--resume", "-o", "o", "-q")
    assert code == 0, err
    found = read_best(tmp_path / "o" / "best.yaml")
    assert found.backbone.name == ("tiny" if "-m" in begun else read_best(best).backbone.name)
    assert found.config.method == ("topk" if "-m" in begun else "evit")


def test_a_folder_that_does_not_say_what_was_to_be_trained_asks_for_it(
    run: Run, tmp_path: Path
) -> None:
    kept = {"data": "digits", "num_images": 8, "precision": "auto", "spec": {}}
    (tmp_path / "finetune.json").write_text(json.dumps(kept))
    code, _, err = run("finetune", "--resume", "-o", tmp_path, "-q")
    assert (code, "say what to train: give a best.yaml" in err) == (2, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "finetune.json: must be a mapping, got a list of 0"),
        ('{"data": ', "finetune.json: is not valid JSON"),
        ('{"data": "digits", "num_images": "x"}', "finetune.json: num_images: must be a whole num"),
        ('{"data": "digits", "spec": {"lr": "x"}}', "finetune.json: spec.lr: must be a number"),
        ('{"data": "digits"}', "finetune.json: lacks the key 'num_images'"),
    ],
)
def test_a_damaged_question_of_an_interrupted_fine_tune_is_one_sentence(
    run: Run, best: Path, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "finetune.json").write_text(content)
    code, out, err = run("finetune", best, "-o", tmp_path / "new", "--resume")
    assert (code, "holds no fine-tune" in err) == (2, True)
    best.rename(tmp_path / "mine.yaml")
    code, out, err = run("finetune", tmp_path / "mine.yaml", "-o", tmp_path, "--resume")
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on_and_then_ends_with_the_same_weights(
    best: Path, tmp_path: Path, run: Run
) -> None:
    long = (*QUICK[:-1], "80 steps", "-q")
    assert run("finetune", best, *long, "-o", tmp_path / "whole")[0] == 0
    folder = tmp_path / "cut"
    command = [sys.executable, "-m", "autotok.cli", "finetune", str(best), *long, "-o", str(folder)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while process.poll() is None and not (folder / "finetune.ckpt").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    (line,) = err.strip().splitlines()
    told = shlex.split(line.split("`")[1])
    assert (folder / "finetune.ckpt").exists()
    code, _, err = run("finetune", best, *long, "-o", folder)
    assert (code, "go on with --resume" in err) == (2, True)
    assert run(*told[1:], "-q")[0] == 0
    whole, cut = (read_best(path / "best.yaml") for path in (tmp_path / "whole", folder))
    assert whole.weights == cut.weights


def images(root: Path, splits: tuple[str, ...]) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in splits:
        (root / split).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{index}.png")


def test_exits_are_trained_calibrated_exported_and_told_of(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "early"
    made = ("finetune", "--backbone", "tiny", "--exits", "local+linear@1,2", "--lr", "0.001")
    assert run(*made, *QUICK, "-o", folder, "-q")[0] == 0
    exits = yaml.safe_load((folder / "best.yaml").read_text())["config"]["exits"]
    assert exits["layers"] == [1, 2]
    judged = ("evaluate", folder / "best.yaml", "--data", "digits", "--images", "60", "--json")
    plain = json.loads(run(*judged)[1])
    assert plain["stopped_pct_behind_block"].keys() == {"1", "2", "end"}
    asked = str(round(0.95 * plain["macs_nominal"] / 1e6, 4))
    met = json.loads(run(*judged, "--mean-cost", f"{asked}MFLOPs")[1])
    assert met["macs_mean"] < plain["macs_nominal"]
    assert "digits" in met["thresholds_found_on"]
    code, _, err = run("evaluate", folder / "best.yaml", "--mean-cost", "9GFLOPs", *judged[2:])
    assert code != 0
    assert "cannot be met by these exits; feasible:" in err
    asked = ("--data", "digits", "--images", "20", "--json")
    file = ("-o", tmp_path / "model.pt", "--format", "torchscript")
    found = json.loads(run("export", folder / "best.yaml", *file, *asked)[1])
    assert (found["ok"], found["num_images"], len(found["parts"])) == (True, 64, 3)
    assert found["macs_g_by_part"][0] < found["macs_mean_g"] <= found["macs_g_by_part"][2]
    assert found["quality_of_file"] == found["quality_in_torch"]


@pytest.mark.parametrize(
    ("exits", "sentence"),
    [
        (("linear",), "exits 'linear' are not understood"),
        (("liner@1",), "exit kind 'liner' is unknown"),
        (("linear@2", "--option", "alpha=3"), "--keep and --option belong to a method"),
        (("linear@2", "-m", "none", "--option", "a=3"), "option 'a' of method 'none' is unknown"),
    ],
)
def test_exits_that_mean_nothing_are_told_at_once(
    run: Run, nothing_loads: None, exits: tuple[str, ...], sentence: str
) -> None:
    code, _, err = run("finetune", "--exits", *exits)
    assert code != 0
    assert sentence in err


def test_exits_of_a_model_that_nothing_reduces_may_be_asked_in_full(run: Run) -> None:
    asked = ("--backbone", "tiny", "--data", "digits", "--method", "none", "--exits", "linear@1,9")
    code, _, err = run("finetune", *asked)
    assert code != 0
    assert "an exit at layer 9 cannot be: backbone 'tiny' has 4 blocks" in err


def test_adapters_say_their_own_settings_and_are_held_to_their_hash(
    run: Run, tmp_path: Path
) -> None:
    path, folder = tmp_path / "adapters.safetensors", tmp_path / "out"
    born = Adapters(tiny_backbone().facts, group_width=4)
    save_file({name: weight.detach() for name, weight in born.named()}, path, {"scale": "0.25"})
    how = ("-b", "tiny", "-m", "tocom", "--keep", "0.5@1", "--option", f"adapters={path}")
    code, _, err = run("finetune", *how, *QUICK, "-o", folder, "-q")
    assert code == 0, err
    tuned = read_best(folder / "best.yaml").config.options
    same = pinned(CompressionConfig("tocom", (), {"adapters": str(path)}))
    assert tuned == same.options
    assert (tuned["scale"], tuned["group_width"]) == (0.25, 4)
    assert tuned["adapters_sha256"]
    path.unlink()
    code, _, err = run("finetune", *how, *QUICK, "-o", tmp_path / "b", "-q")
    assert code == 2
    assert "adapters.safetensors" in err
