"""Every method through search, save, load and evaluate: the same outputs at the same mean cost."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import autotok
from autotok.backbones.base import Backbone
from autotok.backbones.loading import load_backbone
from autotok.cli import main
from autotok.compression.calibrate import needs_calibration
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.adaptive import image_costs
from autotok.counting.counter import count_each
from autotok.counting.macs import cost
from autotok.errors import ConfigError
from autotok.evaluation.accuracy import Evaluator, Tally
from autotok.evaluation.data import DataSource, load_data
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle, write_best
from autotok.export.bundle import load_bundle, load_uncompressed, save_bundle
from autotok.finetune_spec import FineTuneSpec
from autotok.methods import TokenReducer, get_method, list_methods, unmet_need
from autotok.methods.base import Count, Placement, Training
from autotok.methods.image_scoring import ImageScoring, image_network
from autotok.methods.learning import options_when_chosen
from autotok.report.model_report import quality_report
from autotok.searching.running.model_worker import ModelWorker, calibrated_on, judged_tally
from autotok.testing import reduces

NUM_IMAGES = 40
FACTS = load_backbone("tiny").facts
METHODS = [m for m in list_methods() if m != "none" and unmet_need(get_method(m), FACTS) is None]
NEEDS_NETWORK = [m for m in METHODS if issubclass(get_method(m), ImageScoring)]
ADAPTIVE = [m for m in METHODS if get_method(m).count is Count.ADAPTIVE and reduces(get_method(m))]
TRAINED = FineTuneSpec(length="2 steps", batch_size=4, losses={"ce": 1.0})


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    backbone = load_backbone("tiny").eval()
    return Evaluator(backbone, load_data("digits", backbone))


def training(data: str, evaluator: Evaluator) -> Callable[[], DataSource]:
    return partial(load_data, data, evaluator.backbone, split="train")


def config_of(method: type[TokenReducer]) -> CompressionConfig:
    """One or two reductions, halfway to the fewest that the method can keep."""
    early = method.placement is Placement.BEFORE_BLOCKS
    layers = (0,) if early else (1,) if method.single_layer else (1, 2)
    entering, reductions = FACTS.num_patches, []
    for layer in layers:
        low, high = method.feasible(entering, method.resolve_options({}))
        entering = (low + high) // 2
        reductions.append(Reduction(layer, num_keep=entering))
    return CompressionConfig(method.name, tuple(reductions))


def retrained(config: CompressionConfig) -> CompressionConfig:
    options = {**config.options, **options_when_chosen(get_method(config.method))}
    return CompressionConfig(
        config.method, config.reductions, options, mode="retrain", finetune=TRAINED
    )


def judged(
    config: CompressionConfig, evaluator: Evaluator, folder: Path
) -> tuple[ModelWorker, CompressionConfig, Tally]:
    """The worker, what it really judged, and the tally: as a search has them."""
    worker = ModelWorker(
        evaluator.backbone, evaluator, training("digits", evaluator), weights=folder / "weights"
    )
    if config.mode == "retrain":
        config = CompressionConfig.from_json(worker.finetune(config).config)
    tally = worker.evaluate(config, 0, NUM_IMAGES // 2)
    config = CompressionConfig.from_json(tally.judged)
    return worker, config, tally + worker.evaluate(config, NUM_IMAGES // 2, NUM_IMAGES)


def saved(worker: ModelWorker, config: CompressionConfig, backbone: Backbone, folder: Path) -> Path:
    """`best.yaml`, as a search hands it over."""
    bundle = Bundle(BackboneRef.of(backbone.facts), config, preprocessing_of(backbone).to_dict())
    images = torch.randn(2, *FACTS.image_shape)
    save_bundle(folder / "best", worker.compressed(config), bundle, images, formats=())
    return write_best(folder / "best.yaml", bundle)


def check_round_trip(config: CompressionConfig, evaluator: Evaluator, folder: Path) -> None:
    worker, config, tally = judged(config, evaluator, folder)
    path = saved(worker, config, evaluator.backbone, folder)
    images = evaluator.data.batch(range(8))[0]
    with torch.inference_mode():
        mine = worker.compressed(config)(images)
        elsewhere = ModelWorker(
            evaluator.backbone, evaluator, training("digits", evaluator), weights=folder / "weights"
        ).compressed(config)
        loaded = load_bundle(path)
        assert torch.equal(mine, elsewhere(images))
        assert torch.equal(mine, loaded(images))
    assert loaded.config == config
    assert config.mode == "retrain" or not needs_calibration(config)
    again = judged_tally(evaluator, loaded, 0, NUM_IMAGES)
    assert again.macs == tally.macs
    assert again.hits == tally.hits
    found, quality = autotok.evaluate(path, "digits", num_images=NUM_IMAGES), tally.quality()
    assert found == again.quality()
    assert replace(found, kl=quality.kl) == quality  # in other batches: products round differently
    assert found.kl == pytest.approx(quality.kl, abs=1e-6)
    report = quality_report(
        loaded,
        "digits",
        metric="auto",
        num_images=NUM_IMAGES,
        seed=0,
        on_progress=lambda *_: None,
        uncompressed=load_uncompressed(path),
    )
    assert report["value"] == round(quality.value, 4)
    assert report.get("macs_mean") == quality.macs_mean
    assert "thresholds_found_on" not in report


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the networks that methods look at images with; any will do."""
    from autotok.backbones.feature_net import timm  # with the shim around a broken torchvision

    folder = tmp_path_factory.mktemp("weights")
    for name in NEEDS_NETWORK:
        network = str(image_network(get_method(name), get_method(name).resolve_options({})))
        drawn = timm.create_model(network, pretrained=False).state_dict()
        save_file(drawn, folder / f"{network}.safetensors")
    return folder


@pytest.fixture
def networks(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTOK_WEIGHTS", str(weights))


QUICK = ["ats", "diffrate", "dynamicvit", "ltmp", "tofe-instance", "tome"]
"""Of each kind one or two; all others are among the slow ones."""


def some_slow(names: list[str]) -> list[object]:
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names]


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("name", some_slow(METHODS))
def test_what_was_judged_is_what_is_saved_loaded_and_evaluated(
    name: str, evaluator: Evaluator, tmp_path: Path
) -> None:
    method = get_method(name)
    if method.training_need is not Training.REQUIRED:
        check_round_trip(config_of(method), evaluator, tmp_path / "plugged")
    if method.training_need is not Training.FREE:
        check_round_trip(retrained(config_of(method)), evaluator, tmp_path / "retrained")


@pytest.mark.parametrize("name", some_slow(ADAPTIVE))
def test_what_the_meter_reads_is_what_torch_counts_image_by_image(
    name: str, evaluator: Evaluator, tmp_path: Path
) -> None:
    method = get_method(name)
    config = config_of(method)
    if method.training_need is Training.REQUIRED:
        config = retrained(config)
    worker, config, tally = judged(config, evaluator, tmp_path)
    images = evaluator.data.batch(evaluator.data.subset(16, evaluator.seed))[0]
    model = worker.compressed(config)
    counted = count_each(model, images)
    assert counted == list(tally.macs[:16])
    assert worker.count(config) == sum(counted) / 16
    alone = [int(image_costs(model, image).macs[0]) for image in images.split(1)]
    assert alone == counted
    assert len(set(tally.macs)) > 1 or name == "ats"  # its curve is the same on untrained weights
    assert tally.quality().macs_mean == sum(tally.macs) / NUM_IMAGES


@pytest.mark.parametrize("name", ADAPTIVE)
def test_calibration_keeps_the_mean_cost_within_that_of_the_amounts(
    name: str, evaluator: Evaluator
) -> None:
    config = config_of(get_method(name))
    model = calibrated_on(
        compress_backbone(evaluator.backbone, config), evaluator.data, evaluator.seed
    )
    found = image_costs(model, evaluator.data.batch(evaluator.data.subset(32, 0))[0])
    assert found.mean < cost(FACTS, config).macs
    assert model.schedule.kept == tuple(r.num_keep for r in config.reductions)
    assert not needs_calibration(model.config)


UNSETTLED = CompressionConfig("ltmp", (Reduction(1, num_keep=8), Reduction(2, num_keep=4)))


def test_python_and_the_command_line_give_one_answer(evaluator: Evaluator) -> None:
    model = compress_backbone(evaluator.backbone, UNSETTLED)
    report = quality_report(
        model, "digits", metric="kl", num_images=NUM_IMAGES, seed=0, on_progress=lambda *_: None
    )
    found = autotok.evaluate(model, "digits", metric="kl", num_images=NUM_IMAGES)
    assert report["value"] == round(found.value, 4)
    assert report["macs_mean"] == found.macs_mean
    assert report["thresholds_found_on"] == "32 training images"
    assert found.macs_mean is not None
    assert found.macs_mean < report["macs_nominal"] == cost(FACTS, UNSETTLED).macs
    assert not model.config.reductions[0].options  # the caller's model stays as it was


def test_a_flat_folder_is_calibrated_on_as_a_search_does_and_says_so(
    evaluator: Evaluator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(20):
        pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    command = ["evaluate", "--backbone", "tiny", "--method", "ltmp", "--keep", "0.5@1,0.25@2"]
    command += ["--data", str(tmp_path), "--quality", "kl", "--json", "--quiet"]
    monkeypatch.setattr("sys.argv", ["autotok", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    report = json.loads(capsys.readouterr().out)
    assert report["thresholds_found_on"] == "20 of the images judged (no training ones)"
    flat = Evaluator(evaluator.backbone, load_data(str(tmp_path), evaluator.backbone), metric="kl")
    worker = ModelWorker(evaluator.backbone, flat, training(str(tmp_path), evaluator))
    config = CompressionConfig(
        "ltmp", (Reduction(1, keep_ratio=0.5), Reduction(2, keep_ratio=0.25))
    )
    with caplog.at_level("WARNING", logger="autotok"):  # which -q has silenced
        searched = worker.evaluate(config, 0, 20).quality()
        worker.evaluate(CompressionConfig("ats", config.reductions), 0, 8)
    said = [
        r.getMessage() for r in caplog.records if r.name == "autotok.searching.running.model_worker"
    ]
    words = "20 of the images judged (no training ones)"
    assert said == [f"thresholds of ltmp were found on {words}"]
    assert report["value"] == round(searched.value, 4)
    assert report["macs_mean"] == searched.macs_mean
    python = autotok.evaluate(
        compress_backbone(evaluator.backbone, config), str(tmp_path), metric="kl"
    )
    assert python == searched


def test_a_fine_tuned_model_is_not_compared_with_itself(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    config = retrained(CompressionConfig("topk", (Reduction(1, num_keep=8),)))
    worker, config, _ = judged(config, evaluator, tmp_path)
    path = saved(worker, config, evaluator.backbone, tmp_path)
    model = load_bundle(path)
    with pytest.raises(ConfigError, match=r"path of its best\.yaml"):
        autotok.evaluate(model, "digits", metric="kl", num_images=8)
    by_path = autotok.evaluate(path, "digits", metric="kl", num_images=8)
    by_hand = autotok.evaluate(
        model, "digits", metric="kl", num_images=8, uncompressed=evaluator.backbone
    )
    assert by_path == by_hand


def test_thresholds_of_an_authors_file_are_not_found_again(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    names = [f"blocks.{layer}.{kind}_threshold" for layer in (1, 2) for kind in ("merge", "prune")]
    save_file({name: torch.tensor(0.01) for name in names}, tmp_path / "theirs.safetensors")
    keep = {1: 0.5, 2: 0.25}
    model = autotok.compress(
        evaluator.backbone, method="ltmp", keep=keep, weights=tmp_path / "theirs.safetensors"
    )
    assert not needs_calibration(model.config)
    found = autotok.evaluate(model, "digits", num_images=NUM_IMAGES)
    assert found == judged_tally(evaluator, model, 0, NUM_IMAGES).quality()
