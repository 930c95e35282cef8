"""`autotok supernet`: what it prints and writes, what it takes, how it refuses."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from autotok.backbones.loading import load_backbone
from autotok.config import SubnetSpec

Run = Callable[..., tuple[int, str, str]]
SPEC_DATA = {
    "embed_dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "head_dim": 4, "max_offset": 2,
    "embed_choices": [8, 16], "depth_choices": [1, 2], "heads_choices": [1, 2],
    "mlp_ratio_choices": [1.0, 2.0], "image_shape": [1, 8, 8], "patch_size": 4, "num_classes": 10,
}  # fmt: skip
RECIPE = {
    "backbone": "autoformer_custom", "spec": SPEC_DATA, "data": "digits", "bf16": False,
    "val_every": 5, "val_images": 0, "test_images": 20,
    "stages": [{"name": "a", "steps": 5, "batch_size": 8, "lr": 1e-3, "sampling": "sandwich"}],
}  # fmt: skip


@pytest.fixture
def weights(run: Run, tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    code, out, err = run("supernet", "train", recipe, "-o", tmp_path / "trained", "-q")
    assert code == 0, err
    found = json.loads(out)
    assert [row["subnet"] for row in found["subnets"]][:2] == ["default", "largest"]
    return Path(found["weights"])


def own(weights: Path) -> tuple[object, ...]:
    return ("-b", "autoformer_custom", "--checkpoint", weights, "--data", "digits")


def test_eval_scores_any_subnet_with_interval_and_cost(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{embed_dim: 8, heads: [2], mlp_ratios: [2.0]}")
    text = '{"embed_dim": 16, "heads": [1, 2], "mlp_ratios": [1.0, 2.0]}'
    asked = ("smallest", "random:3", str(file), text)
    subnets = [part for word in asked for part in ("--subnet", word)]
    command = ("supernet", "eval", *own(weights), "--images", 20, *subnets, "-q")
    code, out, err = run(*command, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["subnet"] for row in rows] == list(asked)
    assert [row["embed_dim"] for row in rows][2:] == [8, 16]
    assert all(row["low_95"] - 1e-9 <= row["top1_pct"] <= row["high_95"] + 1e-9 for row in rows)
    assert all(row["num_images"] == 20 for row in rows)
    alone = load_backbone(
        "autoformer_custom", checkpoint=weights, subnet=SubnetSpec(8, (2,), (2.0,))
    )
    assert rows[2]["params_m"] == sum(p.numel() for p in alone.parameters()) / 1e6
    code, out, _ = run(*command)
    assert code == 0
    assert "95 % interval" in out
    assert "smallest" in out


def test_cut_writes_a_model_that_evaluate_takes(run: Run, weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    command = ("supernet", "cut", *own(weights), "--subnet", "smallest", "-o", file)
    code, out, err = run(*command, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["max_difference_from_view"] <= 1e-6
    assert report["heads"] == [1]
    described = yaml.safe_load((tmp_path / "small.yaml").read_text())
    assert described["config"]["subnet"]["embed_dim"] == 8
    code, out, err = run(
        "evaluate", tmp_path / "small.yaml", "--data", "digits", "--images", 20, "--json", "-q"
    )
    assert code == 0, err
    cut = json.loads(out)
    code, out, _ = run(
        "supernet", "eval", *own(weights), "--images", 20, "--subnet", "smallest", "--json", "-q"
    )
    assert json.loads(out)[0]["top1_pct"] == pytest.approx(cut["value"], abs=1e-3)
    assert load_backbone("autoformer_custom", checkpoint=file).facts.num_blocks == 1


def test_search_writes_a_best_yaml_that_cut_and_evaluate_take(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    sizes = ("--population", 4, "--generations", 2, "--parents", 2, "--finalists", 2)
    command = ("supernet", "search", *own(weights), "--budget", "70%", "--images", 10,
               "--final-images", 20, *sizes, "-o", folder, "-q")  # fmt: skip
    code, out, err = run(*command, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert len(pd.read_csv(folder / "candidates.csv")) == result["num_evaluated"] == 8
    assert result["best"]["macs_g"] <= 0.7 * result["default"]["macs_g"]
    assert run(*command)[0] == 2  # the folder is taken
    code, again, _ = run(*command, "--resume", "--json")
    assert json.loads(again) == result
    best = folder / "best.yaml"
    code, out, err = run("evaluate", best, "--data", "digits", "--images", 20, "--json", "-q")
    assert code == 0, err
    assert json.loads(out)["value"] == pytest.approx(result["best"]["top1_pct"], abs=1e-3)
    file = tmp_path / "best.safetensors"
    code, out, err = run("supernet", "cut", *own(weights), "--subnet", best, "-o", file, "--json")
    assert code == 0, err
    assert json.loads(out)["embed_dim"] == result["best"]["embed_dim"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("eval", "--subnet", "lagrest"), 2, "did you mean 'largest'"),
        (("eval", "-b", "tiny"), 2, "is no supernet"),
        (("eval", "-b", "autoformer_custom"), 2, "shapes of 'autoformer_custom' are in its weight"),
        (("eval", "-b", "autoformer_tiny"), 2, "cannot be downloaded"),
        (("cut", "-o", "w.bin"), 2, "ends in .safetensors"),
        (("search", "--budget", "26ms", "-o", "x"), 2, "takes FLOPs, MACs, parameters"),
        (("search", "--budget", "1kparams", "-o", "x"), 3, "smallest has"),
        (("search", "--budget", "50%", "-o", "/dev/null/x"), 2, "'/dev/null/x' cannot be written"),
        (("search", "--budget", "50%", "--data", "gone", "-o", "x"), 2, "'gone' does not exist"),
        (("search", "--budget", "50%", "--timeout", "inf", "-o", "x"), 2, "timeout is inf s"),
        (("cut", "-o", "/dev/null/w.safetensors"), 2, "'/dev/null' cannot be written"),
        (("cut", "--data", "gone", "-o", "w.safetensors"), 2, "'gone' does not exist"),
        (("eval", "--data", "gone"), 2, "'gone' does not exist"),
        (("train", "none.yaml", "-o", "/dev/null/x"), 2, "'/dev/null/x' cannot be written"),
        (("train", "none.yaml", "-o", "x"), 2, "does not exist; give a recipe"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if code == 2 and "autoformer_tiny" not in arguments:

        def never(*_: object) -> None:
            raise AssertionError("weights were read")

        monkeypatch.setattr("autotok.api.supernet.load_supernet", never)
    got, out, err = run("supernet", *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupted_training_says_a_command_that_a_shell_takes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotok.train_supernet", stopped, raising=False)
    command = ["supernet", "train", "my recipe.yaml", "-o", str(tmp_path / "my folder")]
    code, _, err = run(*command, "-q")
    assert code == 130
    assert shlex.split(err.split("`")[1]) == ["autotok", *command, "--resume"]
