"""Whole searches through the Python door: retraining, subnets, worker processes."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from pickles import pickles_in

import autotok
from autotok.backbones.demo import load_demo_backbone
from autotok.backbones.tiny import tiny_vit
from autotok.config import CompressionConfig, SubnetSpec
from autotok.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    UnknownName,
    UnsupportedBackbone,
)
from autotok.export.bundle import load_bundle
from autotok.finetune_spec import FineTuneSpec
from autotok.searching.engines.base import Workers
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem
from autotok.searching.space.settings import SearchSettings

SETTINGS = SearchSettings(
    n_trials=4, images_few=20, images_more=20, images_final=40, retrain_trials=1
)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods that only retrain, for a few steps."""
    path = tmp_path_factory.mktemp("space") / "retrain.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "methods": ["topk", "tome"],
                "mode": ["retrain"],
                "finetune": {"length": "6 steps", "losses": "ce+soft", "lr": 1e-3, "batch_size": 8},
            }
        )
    )
    return path


def no_file(*_: object, **__: object) -> None:
    raise ExportError("left out by these tests")


@pytest.fixture(scope="module")
def run(space: Path, tmp_path_factory: pytest.TempPathFactory) -> autotok.Run:
    folder = tmp_path_factory.mktemp("runs") / "retrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotok.export.bundle.export_model", no_file)
        return autotok.search(
            "tiny", data="digits", budget="60%", space=str(space), settings=SETTINGS, output=folder
        )


@pytest.mark.slow
def test_the_weights_of_every_retrained_configuration_on_the_front_are_kept(
    run: autotok.Run,
) -> None:
    front = run.records()["front"]
    assert any(r.config.mode == "retrain" for r in front)
    images = torch.randn(2, 3, 32, 32)
    for record in front:
        model = run.load(record)
        assert model.config == record.config
        assert torch.isfinite(model(images)).all()


def test_the_best_carries_its_own_weights_and_loads_elsewhere(run: autotok.Run) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        mine, bundled = run.load(run.best)(images), load_bundle(run.directory / "best.yaml")(images)
        assert torch.equal(run.load_best()(images), bundled)
    assert torch.equal(mine, bundled)


def test_weights_that_a_fine_tune_moved_are_not_the_plugged_in_ones(run: autotok.Run) -> None:
    images, moved = torch.randn(2, 3, 32, 32), []
    for record in run.records()["front"]:
        assert record.config is not None
        if record.config.mode == "retrain":  # some fine-tunes end where they began
            plain = autotok.compress(tiny_vit(), record.config.plugged_in)(images)
            moved.append(not torch.allclose(run.load(record)(images), plain))
    assert any(moved)


def test_lost_weights_are_said_in_one_sentence(run: autotok.Run, tmp_path: Path) -> None:
    record = run.best
    assert record.config is not None
    other = dataclasses.replace(
        record,
        config=dataclasses.replace(record.config, finetune=FineTuneSpec(length="7 steps")),
    )
    with pytest.raises(CheckpointError):
        run.load(other)


@pytest.mark.slow
@pytest.mark.usefixtures("no_onnx")
def test_worker_processes_finish_a_search_of_a_real_model(
    run: autotok.Run, space: Path, tmp_path: Path
) -> None:
    seen: set[Path] = set()

    def look(event: object) -> None:
        if (tmp_path / "two").is_dir():
            seen.update(p for p in pickles_in(tmp_path / "two") if p.suffix != ".ckpt")

    again = autotok.search(
        "tiny",
        data="digits",
        budget="60%",
        space=str(space),
        settings=SETTINGS,
        workers=Workers(2),
        output=tmp_path / "two",
        on_event=look,
    )
    assert len(again.trials) >= 4
    assert set(again.front["state"]) == {"complete"}
    assert (seen, pickles_in(again.directory), pickles_in(run.directory)) == (set(), [], [])


def test_structure_is_searched_of_supernets_and_of_what_can_be_pruned() -> None:
    with pytest.raises(UnsupportedBackbone, match="subnets of its supernet; leave subnet at"):
        build_problem(Question(subnet="search"), load_demo_backbone())
    with pytest.raises(UnsupportedBackbone, match="'lvvit_s' cannot be pruned"):
        build_problem(Question(backbone="lvvit_s", data="digits", subnet="search"))  # no weights
    with pytest.raises(UnknownName, match="did you mean 'search'"):
        Question(subnet="serch")


def test_a_teacher_of_the_space_that_nobody_knows_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotok.searching.running.session.load_backbone", None)
    (tmp_path / "space.yaml").write_text("finetune: {teacher: [tiny, vit_tini_patch16_224]}\n")
    question = Question("tiny", data="digits", space=str(tmp_path / "space.yaml"))
    with pytest.raises(ConfigError, match="teacher 'vit_tini_patch16_224' is unknown"):
        build_problem(question)
    (tmp_path / "space.yaml").write_text("finetune: {teacher_checkpoint: none.pth}\n")
    with pytest.raises(ConfigError, match=r"'none\.pth' is given without a teacher"):
        build_problem(question)


@pytest.mark.slow
def test_a_subnet_of_the_demo_is_counted_predicted_and_evaluated() -> None:
    question = Question(subnet="search", budgets=("70%",), target="jetson-nx", max_images=2)
    session = build_problem(question)
    subnet = SubnetSpec(96, (2,) * 10, (3.0,) * 10)
    config = CompressionConfig("topk", (autotok.Reduction(2, num_keep=100),), subnet=subnet)
    problem = session.problem
    assert problem.count is not None
    assert problem.count(config) == problem.costs.cost(config).macs
    assert problem.predict is not None
    assert (
        problem.predict(config)["latency_ms"] < problem.predict(CompressionConfig())["latency_ms"]
    )
    assert problem.evaluate(config, 0, 2).quality().num_images == 2


def test_without_training_images_configurations_are_plugged_in_only(tmp_path: Path) -> None:
    from PIL import Image

    for index in range(4):
        Image.new("RGB", (40, 40), (index * 50, 10, 10)).save(tmp_path / f"{index}.png")
    session = build_problem(
        Question(backbone="tiny", data=str(tmp_path), budgets=("60%",)), weights=tmp_path / "w"
    )
    assert session.problem.space.mode == ("plug-in",)
