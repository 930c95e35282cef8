"""What is fine-tuned: told before anything is loaded where it cannot be."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import autotok
from autotok import CompressionConfig, FineTuneSpec, Reduction
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import AutotokError, ConfigError, ExportError
from autotok.evaluation.data import load_data
from autotok.exits import ExitPolicy
from autotok.export.weights import WEIGHTS
from autotok.report.finetune_job import config_of, job_of, wished_spec, with_spec

TOPK = CompressionConfig("topk", (Reduction(1, 0.5),))
EXITS = ExitPolicy((2,))


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("was loaded")

    monkeypatch.setattr("autotok.report.finetune_job.load_backbone", never)
    monkeypatch.setattr("autotok.report.finetune_run.load_data", never)


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        (
            CompressionConfig("dynamicvit", (Reduction(1, 0.5),), exits=EXITS),
            {},
            "'dynamicvit' must be trained, and loss 'exits_distill' trains the heads",
        ),
        (
            CompressionConfig(exits=EXITS),
            {"changes": {"losses": {"exits_distill": 1.0, "ce": 1.0}}},
            "'ce' beside it trains nothing",
        ),
        (
            TOPK,
            {"changes": {"losses": {"soft": 1.0}, "label_smoothing": 0.5}},
            "label_smoothing 0.5 is of loss 'ce' alone",
        ),
        (TOPK, {"changes": {"losses": {"soft": math.inf}}}, "'soft' is inf; give a number above 0"),
        (CompressionConfig("none", TOPK.reductions), {}, "none"),
        (CompressionConfig("topk", (Reduction(99, 0.5),)), {}, "99"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(
    nothing_loads: None, config: CompressionConfig, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(AutotokError, match=words):
        autotok.finetune(config, data="digits", backbone="tiny", **more)


@pytest.mark.parametrize(
    ("said", "words"),
    [("losses: {sof: 1.0}", "loss 'sof' is unknown"), ("augment: flip", "augmentation 'flip' is")],
)
def test_what_a_recipe_of_ones_own_says_is_checked_as_early(
    nothing_loads: None, tmp_path: Path, said: str, words: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(said)
    with pytest.raises(AutotokError, match=words):
        autotok.finetune(TOPK, data="digits", backbone="tiny", recipe=str(path))


def test_a_teacher_of_other_classes_is_told_before_images_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autotok.report.finetune_run.load_data", None)
    with pytest.raises(ConfigError, match="'resnet50' knows 1000 classes and backbone 'tiny' 10"):
        autotok.finetune(TOPK, data="digits", backbone="tiny", changes={"teacher": "resnet50"})


def test_a_spec_goes_over_the_configurations_and_changes_over_both() -> None:
    early = CompressionConfig(exits=EXITS)
    assert dict(wished_spec(early, None, {}).losses) == {"exits_distill": 1.0}
    own = CompressionConfig(mode="retrain", finetune=FineTuneSpec(seed=3))
    assert wished_spec(own, None, {"lr": 0.1}) == FineTuneSpec(seed=3, lr=0.1)
    assert wished_spec(own, FineTuneSpec(seed=4), {}).seed == 4


def test_a_model_that_is_not_compressed_has_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model is not compressed"):
        config_of(tiny_backbone())


@pytest.mark.parametrize("config", [TOPK, CompressionConfig(exits=EXITS)])
def test_a_recipe_by_name_smooths_labels_where_a_loss_takes_them(
    config: CompressionConfig,
) -> None:
    job = job_of(config, "tiny", None)
    data = load_data("digits", job.backbone, split="train")
    chosen = with_spec(job, None, "deit", {}, data).config.finetune
    assert chosen is not None
    assert (chosen.label_smoothing > 0) == ("ce" in chosen.losses) == (config is TOPK)
    chosen = with_spec(job, None, "deit", {"losses": {"soft": 1.0}}, data).config.finetune
    assert chosen is not None
    assert chosen.label_smoothing == 0


def no_file(*_: object, **__: object) -> None:
    raise ExportError("left out by this test")


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, exits and method trained together for two steps."""
    folder = tmp_path_factory.mktemp("stages") / "first"
    config = CompressionConfig(
        "dynamicvit", (Reduction(1, num_keep=8),), exits=ExitPolicy((2,), threshold=(0.9,))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotok.export.bundle.export_model", no_file)
        autotok.finetune(
            config,
            data="digits",
            backbone="tiny",
            spec=FineTuneSpec(length="2 steps", batch_size=4, lr=0.01, losses={"exits_normal": 1}),
            num_images=8,
            output=folder,
        )
    return folder


def test_a_second_fine_tune_starts_from_what_the_first_one_trained(first_stage: Path) -> None:
    first, path = autotok.load(first_stage / "best"), first_stage / "best.yaml"
    student, said = job_of(path, None, first_stage / "best" / WEIGHTS).student()
    assert said.startswith("1 of 1 heads of exits and ")
    assert student.exits is not None
    assert first.exits is not None
    for trained, again in ((first.exits, student.exits), (first.reducers, student.reducers)):
        state = again.state_dict()
        assert trained.state_dict()
        assert all(torch.equal(state[name], t) for name, t in trained.state_dict().items())
    fresh, said = job_of(path, None, None).student()  # from the uncompressed weights
    assert said == ""
    assert fresh.exits is not None
    assert not torch.equal(*(next(m.exits.parameters()) for m in (fresh, student) if m.exits))


def test_what_a_model_was_given_is_not_drawn_anew(first_stage: Path) -> None:
    config = CompressionConfig("dynamicvit", (Reduction(1, num_keep=8),))
    model = autotok.compress(tiny_backbone(), config, untrained=True)
    torch.nn.init.constant_(next(model.reducers.parameters()), 0.25)
    student, said = job_of(model, None, None).student()
    assert "of method 'dynamicvit'" in said
    assert (next(student.reducers.parameters()) == 0.25).all()
    torch.nn.init.zeros_(next(student.reducers.parameters()))
    assert (next(model.reducers.parameters()) == 0.25).all()
