"""`profile`, `compress`, `evaluate`: what they ask for, and what they say."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import autotok
from autotok.backbones import timm_vit
from autotok.backbones.tiny import tiny_backbone
from autotok.methods.registry import get_method, list_methods
from autotok.methods.tocom import Adapters

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are to be had, and asking for some is a failure of its own kind."""
    create = timm_vit.timm.create_model

    def without(*args: object, pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        assert not pretrained, "the network was asked"
        model: torch.nn.Module = create(*args, pretrained=False, **kwargs)
        return model

    monkeypatch.setattr(timm_vit.timm, "create_model", without)


@pytest.mark.parametrize("command", ["profile", "evaluate", "compress"])
@pytest.mark.parametrize(
    "knob", [("--keep", "0.5@1"), ("-r", "4"), ("--option", "x=1")], ids=["keep", "r", "option"]
)
def test_a_knob_without_a_method_asks_for_the_method(
    run: Run, tmp_path: Path, command: str, knob: tuple[str, str]
) -> None:
    more = ("-o", tmp_path / "out") if command == "compress" else ()
    code, _, err = run(command, "-b", "tiny", *knob, *more)
    assert code == 2
    assert "name it with --method" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["profile", "evaluate", "compress", "export", "tokens"])
@pytest.mark.parametrize(
    "knob",
    [("-m", "evit"), ("--keep", "0.5@1"), ("-r", "0"), ("--option", "x=1"), ("--image-size", "64")],
    ids=["method", "keep", "r", "option", "image_size"],
)
def test_a_best_yaml_and_an_option_that_it_decides_are_not_both_taken(
    run: Run, tmp_path: Path, command: str, knob: tuple[str, str]
) -> None:
    more = ("-o", tmp_path / "out.onnx") if command in ("compress", "export") else ()
    best = ("digits:0", "-c", "best.yaml") if command == "tokens" else ("best.yaml",)
    code, _, err = run(command, *best, *knob, *more)
    assert code == 2
    assert f"'best.yaml' says what {knob[0].replace('-m', '--method')} would; give either" in err


def test_evaluate_judges_by_features_and_by_a_function_of_ones_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sureness.py").write_text(
        "def two(model, batch):\n    return [2.0] * len(batch.indices)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shared = "-b tiny -m topk --keep 0.5@1 --data digits --images 6 --json".split()
    code, out, _ = run("evaluate", *shared, "--quality", "feature")
    found = json.loads(out)
    assert (code, found["metric"], found["uncompressed"]) == (0, "feature", 100.0)
    assert found["low_95"] < found["value"] < found["high_95"] <= 100.0
    code, out, _ = run("evaluate", *shared, "--evaluator", "sureness:two", "--quality", "own_loss")
    found = json.loads(out)
    assert (code, found["metric"], found["value"]) == (0, "own_loss", 2.0)
    code, _, err = run("evaluate", *shared, "--evaluator", "sureness:three")
    assert code == 2
    assert "'sureness:three' cannot be used" in err


@pytest.mark.parametrize("command", ["profile", "evaluate", "compress", "export", "finetune"])
def test_every_command_takes_b_for_the_backbone(run: Run, tmp_path: Path, command: str) -> None:
    more = ("-o", tmp_path / "out.onnx") if command in ("compress", "export", "finetune") else ()
    code, _, err = run(command, "-b", "nobody", "--method", "tome", "--keep", "0.5@1", *more)
    assert code == 2
    assert "backbone 'nobody' is unknown" in err


@pytest.mark.parametrize(("asked", "batch"), [((), 32), (("--batch", "2"), 2)])
def test_a_profile_is_of_as_many_images_as_the_target_names(
    run: Run, tmp_path: Path, asked: tuple[str, ...], batch: int
) -> None:
    own = files("autotok.predicting").joinpath("targets", "local.yaml").read_text("utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(own.replace("default_batch: 1", "default_batch: 32"))
    code, out, err = run(
        "profile", "-b", "tiny", "--no-measure", "--target", path, *asked, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["prediction_setting"].endswith(f"batch {batch}")


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny.fb_in1k"])
@pytest.mark.parametrize("command", ["profile", "evaluate"])
def test_a_model_that_is_no_vit_is_told_from_a_missing_network(
    run: Run, offline: None, command: str, name: str
) -> None:
    code, _, err = run(command, "--backbone", name)
    assert code == 2
    assert f"'{name}' is not supported: it is no plain Vision Transformer" in err


@pytest.mark.parametrize(
    "name",
    [
        n if i % 5 == 0 else pytest.param(n, marks=pytest.mark.slow)
        for i, n in enumerate(list_methods())
    ],
)
def test_profiling_without_measuring_needs_no_weights(run: Run, offline: None, name: str) -> None:
    method = get_method(name)
    layer = 0 if method.placement.name == "BEFORE_BLOCKS" else 3
    knobs = () if name == "none" else ("--method", name, "--keep", f"0.75@{layer}")
    code, out, err = run(
        "profile", "-b", "deit_tiny_distilled_patch16_224", *knobs, "--no-measure", "--json",
        "--target", "jetson-nx",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert report["patch_tokens"] == 196
    assert report["predicted_latency_ms"] > 0
    assert name == "none" or report["predicted_uncompressed_ms"] > 0
    if name != "none":
        assert report["patch_tokens_by_layer"][str(layer)] <= 196


def test_the_independent_count_needs_no_weights_either(run: Run, offline: None) -> None:
    code, out, _ = run(
        "profile", "-b", "vit_small_patch16_224", "--method", "tome", "-r", "16", "--check",
        "--no-measure", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["check"] == "equal"


@pytest.mark.usefixtures("no_onnx")
def test_the_realised_schedule_is_printed_layer_by_layer(run: Run, tmp_path: Path) -> None:
    how = ("-b", "tiny", "--method", "tome", "-r", "5")
    left, kept = 16, list[str]()
    for layer in range(4):
        left -= min(5, left // 2)  # ToMe's own rule
        kept.append(f"{layer}: {left}")
    for command in (
        ("profile", *how, "--no-measure"),
        ("evaluate", *how, "--data", "digits", "--images", "8"),
        ("compress", *how, "-o", tmp_path / "out"),
    ):
        code, out, err = run(*command)
        assert code == 0, err
        assert re.search(rf"^patch_tokens_by_layer +{', '.join(kept)}$", out, re.M)


@pytest.mark.usefixtures("no_onnx")
def test_a_bundle_of_thresholds_has_them_found_or_says_that_counts_are_nominal(
    run: Run, tmp_path: Path
) -> None:
    how = ("compress", "-b", "tiny", "-m", "asvit", "--keep", "0.5@1", "--json")
    found, bare = tmp_path / "found", tmp_path / "bare"
    code, out, err = run(*how, "-o", found, "--data", "digits")
    assert code == 0, err
    assert json.loads(out)["thresholds_found_on"] == "32 of 'digits'"
    (stored,) = autotok.load(found).config.reductions
    assert stored.keep_ratio == 0.5
    assert stored.options["threshold"] != get_method("asvit").resolve_options({})["threshold"]
    assert "nominal" not in (found / "README.md").read_text()
    code, out, err = run(*how, "-o", bare)
    assert code == 0, err
    assert json.loads(out)["counts"].startswith("nominal: thresholds not found")
    assert "counts of tokens, and costs by formula, are nominal" in (bare / "README.md").read_text()


@pytest.mark.usefixtures("no_onnx")
def test_a_bundle_of_folded_weights_is_judged_against_the_model_before_the_fold(
    run: Run, tmp_path: Path
) -> None:
    path, generator = tmp_path / "adapters.safetensors", torch.Generator().manual_seed(2)
    born = Adapters(tiny_backbone().facts, group_width=1)
    save_file({n: torch.randn(w.shape, generator=generator) for n, w in born.named()}, path)
    how = f"-b tiny -m tocom --keep 0.5@1 --option adapters={path}".split()
    assert run("compress", *how, "-o", tmp_path / "out")[0] == 0
    asked = "--data digits --images 20 --quality kl --json -q".split()
    there = json.loads(run("evaluate", *how, *asked)[1])
    path.unlink()  # the bundle holds all that it needs
    code, out, err = run("evaluate", tmp_path / "out", *asked)
    assert code == 0, err
    assert json.loads(out)["value"] == there["value"] > 0.01


@pytest.mark.parametrize("command", [("export",), ("tokens", "digits:0"), ("supernet", "cut")])
def test_a_folder_where_a_file_is_to_be_is_told_before_anything_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    (tmp_path / "m.safetensors").mkdir()
    for name in ("cli.models.build", "cli.tokens.build", "api.supernet.load_supernet"):
        monkeypatch.setattr(f"autotok.{name}", None)
    method = () if command[0] == "supernet" else ("-m", "tome", "-r", "2")
    code, _, err = run(*command, *method, "-o", tmp_path / "m.safetensors")
    assert code == 2
    assert "is a folder, and a file is to be written there; give the file's own name" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "-o", "m.onnx", "--images", "5"), "--images 5 judges the file on images of"),
        (("export", "-o", "m.onnx", "--data", "/nope"), "data folder '/nope' does not exist"),
        (("profile", "--no-measure", "--measure-on", "ssh://x"), "say how a model is timed, and"),
        (("profile", "--no-measure", "--runtime", "bogus"), "say how a model is timed, and"),
        (
            ("profile", "-r", "-3"),
            "Invalid value for '-r'",
        ),
    ],
)
def test_options_without_what_they_are_about_are_refused_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr("autotok.cli.models.build", None)
    command, *asked = arguments
    code, _, err = run(command, "-b", "tiny", "-m", "tome", "-r", "2", *asked)
    assert code == 2
    assert words in err
