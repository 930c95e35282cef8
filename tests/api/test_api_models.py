"""The Python doors: compress, count, search and resume, ask and tell."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import autotok
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.errors import ConfigError, RunDirectoryError, UnsupportedBackbone
from autotok.evaluation.side_by_side import LoadedBatch
from autotok.export.best_yaml import BackboneRef, Bundle, write_best
from autotok.searching.space.settings import SearchSettings

pytestmark = pytest.mark.usefixtures("few_candidates")

SETTINGS = SearchSettings(n_trials=4, images_few=20, images_more=20, images_final=40)


def test_compress_takes_a_plain_timm_model_and_counts_what_it_costs() -> None:
    model = tiny_vit()
    compressed = autotok.compress(model, method="tome", r=2)
    assert compressed.schedule.kept == (14, 12, 10, 8)
    assert autotok.macs(compressed).macs < autotok.macs(model).macs
    from autotok.counting.counter import count_macs

    assert count_macs(compressed) == autotok.macs(compressed).macs
    assert compressed(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "say how to compress"),
        ({"method": "tome"}, "needs keep"),
        ({"method": "tome", "r": 2, "keep": {1: 0.5}}, "not both"),
        ({"config": autotok.CompressionConfig(), "method": "tome"}, "not both"),
        ({"method": "tomme", "r": 2}, "did you mean 'tome'"),
        ({"method": "tome", "r": "13"}, "r is '13'; give a whole number"),
        ({"method": "tome", "r": 2.5}, "r is 2.5; give a whole number"),
        ({"method": "evit", "keep": [0.5]}, "give a ratio per layer"),
        ({"method": "tome", "r": 2, "options": 3}, "options are 3; give a mapping"),
        ({"method": "tome", "r": 2, "image_size": "64"}, "image_size is '64'"),
        ({"config": {"method": "tome"}}, "give a CompressionConfig"),
        (
            {"config": autotok.CompressionConfig(image_size=64), "image_size": 48},
            "image_size is 48, and the configuration's is 64",
        ),
        ({"method": "topk", "r": 9}, "feasible|every patch"),
        ({"config": "missing.yaml"}, "missing.yaml"),
    ],
)
def test_compress_refuses_what_cannot_be(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        autotok.compress(tiny_vit(), **arguments)  # type: ignore[arg-type]


def test_a_best_yaml_of_another_model_is_refused_wherever_a_configuration_is(
    tmp_path: Path,
) -> None:
    small, large = tiny_vit(), tiny_vit(8, image_size=64)  # 4 blocks of 16 patches, 8 of 64
    made = autotok.compress(small, method="tome", r=2)
    best = write_best(
        tmp_path / "best.yaml", Bundle(BackboneRef.of(made.backbone.facts), made.config, {})
    )
    assert autotok.compress(small, best).schedule == made.schedule
    assert autotok.macs(small, best) == autotok.macs(made, best) == autotok.macs(made)
    whole = autotok.compress(large, autotok.CompressionConfig())
    for refused in (
        lambda: autotok.compress(large, best),
        lambda: autotok.macs(large, str(best)),
        lambda: autotok.macs(whole, best),
    ):
        with pytest.raises(ConfigError, match=r"4 blocks, grid 4x4.* 8 blocks and grid 8x8"):
            refused()


def test_options_are_written_as_their_method_has_them() -> None:
    one, other = (
        autotok.compress(tiny_vit(), method="pitome", keep={1: 1}, options={"margin": margin})
        for margin in (1, 1.0)
    )
    assert one.config.config_id == other.config.config_id
    assert repr(one.config.options["margin"]) == "1.0"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: autotok.evaluate(tiny_backbone(), "digits", num_images=0), "num_images is 0"),
        (lambda: autotok.evaluate(tiny_backbone(), "digits", num_images=-5), "num_images is -5"),
        (lambda: autotok.evaluate(tiny_backbone(), "digits", seed=-1), "seed is -1; give a whole"),
        (lambda: autotok.profile(tiny_backbone(), batch=0), "batch is 0; give at least 1"),
        (lambda: autotok.Question(max_images=0), "max_images is 0; give at least 1"),
        (lambda: autotok.search("tiny", data="digits", max_images=-5), "max_images is -5"),
        (lambda: autotok.evaluate_subnets(num_images=0), "num_images is 0; give at least 1"),
        (lambda: autotok.evaluate_subnets(seed=-1), "seed is -1; give a whole"),
        (lambda: autotok.cut_subnet("default", "x.safetensors", num_images=0), "num_images is 0"),
    ],
)
def test_counts_and_seeds_that_cannot_be_are_refused(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask()


def test_the_authors_r_takes_at_most_half_of_what_enters_a_layer() -> None:
    from autotok.backbones.loading import load_structure

    backbone = load_structure("deit_tiny_patch16_224")
    kept, left = [], 196
    for _ in range(12):  # tome/merge.py: r = min(r, (t - protected) // 2), r = 16 as for MAE
        left -= min(16, left // 2)
        kept.append(left)
    model = autotok.compress(backbone, method="tome", r=16)
    assert list(model.schedule.mlp) == kept
    with pytest.raises(ConfigError, match="feasible"):
        autotok.compress(backbone, method="tome", keep={0: 0.4})


def test_a_model_no_adapter_knows_is_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="Sequential"):
        autotok.compress(nn.Sequential(nn.Linear(2, 2)), method="tome", r=1)


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_search_on_a_model_object_resumes_only_with_that_model(tmp_path: Path) -> None:
    model = tiny_vit()
    run = autotok.search(
        model, data="digits", budget="60%", settings=SETTINGS, output=tmp_path / "run"
    )
    front = run.front
    limit = 0.6 * autotok.macs(model).macs
    assert len(front) >= 1
    assert (front["macs"] <= limit).all()
    assert run.best.score is not None
    images = torch.randn(1, 3, 32, 32)
    assert run.load_best(model)(images).shape == (1, 10)
    for load in (run.load_best, lambda: run.load(run.best)):
        with pytest.raises(ConfigError, match="a model object, which no name means; give the same"):
            load()
    with pytest.raises(ConfigError, match="give the same one again"):
        autotok.resume(run.directory)
    again = autotok.resume(run.directory, model=model, n_trials=6)
    assert (again.trials["state"] == "complete").sum() >= 5


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_a_search_by_a_function_of_ones_own_resumes_only_with_that_function(tmp_path: Path) -> None:
    def sure(model: nn.Module, batch: LoadedBatch) -> torch.Tensor:
        found: torch.Tensor = model(batch.images).softmax(dim=-1).amax(dim=-1)
        return found

    asked = {"data": "digits", "budget": "60%", "settings": SETTINGS, "evaluator": sure}
    with pytest.raises(ConfigError, match="no other process can find again"):
        autotok.search("tiny", workers=autotok.Workers(2), output=tmp_path / "two", **asked)
    run = autotok.search("tiny", output=tmp_path / "run", **asked)
    assert run.best.score is not None
    assert run.best.score.metric == "own"
    assert run.front["own"].between(0.1, 1.0).all()
    with pytest.raises(ConfigError, match="resume from Python with evaluator="):
        autotok.resume(run.directory)
    again = autotok.resume(run.directory, evaluator=sure, n_trials=6)
    assert (again.trials["state"] == "complete").sum() >= 5


def test_a_run_that_another_quality_judged_takes_no_function(finished_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"judged by auto, not by .*start a new run"):
        autotok.resume(finished_run, evaluator=torch.numel)


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_the_same_seed_gives_the_same_front(tmp_path: Path) -> None:
    fronts = [
        autotok.search("tiny", data="digits", budget="60%", settings=SETTINGS, output=tmp_path / n)
        .front["config_id"]
        .tolist()
        for n in ("a", "b")
    ]
    assert fronts[0] == fronts[1]


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        autotok.Run(tmp_path)


@pytest.mark.slow
def test_predictions_name_their_target_and_what_stands_behind_them() -> None:
    found = autotok.predict(tiny_backbone(), "rtx3090")
    assert found.latency_ms > 0
    assert found.target == "rtx3090"
    assert "checked" in found.source


def test_a_backbone_made_smaller_says_its_image_size_in_the_configuration(tmp_path: Path) -> None:
    from autotok.counting.counter import count_macs

    own = tiny_backbone()
    given = autotok.compress(own, method="tome", r=1, image_size=16)
    made = autotok.compress(own.at_size(16), method="tome", r=1)
    assert given.config == made.config
    assert given.config.image_size == 16
    assert autotok.macs(given).macs == count_macs(given)
    best = write_best(
        tmp_path / "best.yaml", Bundle(BackboneRef.of(given.original.whole.facts), given.config, {})
    )
    again = autotok.compress(own, best)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), given.eval()(images))
    assert autotok.compress(own, method="tome", r=1, image_size=32).config.image_size is None
