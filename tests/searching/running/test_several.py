"""Several backbones in one search: each with its own costs and images, judged on the same ones."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from problems import fake_problem, vit_facts

import autotok
from autotok.backbones.family import FAMILIES, Family, ModelRequest, register_family
from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_vit
from autotok.config import CompressionConfig, Primitive, Reduction
from autotok.counting.macs import cost
from autotok.errors import AutotokError, ConfigError, DataError, ExportError
from autotok.evaluation.folder import FolderData
from autotok.searching.engines.base import Workers
from autotok.searching.running.engine_choice import ProblemFactory
from autotok.searching.running.question import Question, check_names
from autotok.searching.running.several import build_session, joined_problem
from autotok.searching.space.parameters import Parameter

SMALL = vit_facts(depth=6)
BOTH = ("tiny", "shorter")
QUESTION = Question("tiny", BOTH, data="digits", budgets=("60%",), device="cpu")


@pytest.fixture(scope="module", autouse=True)
def shorter() -> Iterator[None]:
    """Two sisters of `tiny`: `shorter` with 3 blocks on 24 pixels, `wider` with 7 classes."""

    @register_family("sisters")
    class Sisters(Family):
        def names(self) -> Sequence[str]:
            return ("shorter", "wider")

        def matches(self, asked: object) -> bool:
            return asked in self.names()

        def load(self, asked: ModelRequest) -> TimmViT:
            shape = {"num_blocks": 3, "image_size": 24} if asked.name == "shorter" else {}
            classes = 7 if asked.name == "wider" else 10
            return TimmViT(tiny_vit(**shape, num_classes=classes, seed=1), name=asked.name)

        def structure(self, asked: ModelRequest, *, device: str = "meta") -> TimmViT:
            return self.load(asked)

    yield
    FAMILIES.discard("sisters")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> autotok.Run:
    with pytest.MonkeyPatch.context() as patch:  # an ONNX file takes longer than the search
        patch.setattr("autotok.export.bundle.export_model", no_file)
        return searched(tmp_path_factory.mktemp("several") / "run")


def no_file(*_: object, **__: object) -> None:
    raise ExportError("left out by this test")


def searched(folder: Path, **given: Any) -> autotok.Run:
    asked: dict[str, Any] = {"data": "digits", "budget": "60%", "n_trials": 5, "max_images": 24}
    asked |= {"methods": ["tome", "evit"], "timeout_s": None, "retrain_trials": 0}
    asked |= {"images_few": 12, "images_more": 16, "control_shapes": 1, "precision": "float32"}
    return autotok.search(BOTH, output=folder, **(asked | given))


def test_a_configuration_costs_what_its_own_backbone_costs() -> None:
    problem = joined_problem({"big": fake_problem(), "small": fake_problem(facts=SMALL)})
    plain = CompressionConfig("tome", (Reduction(2, num_keep=150),))
    for name, facts in (("big", vit_facts()), ("small", SMALL)):
        config = dataclasses.replace(plain, backbone=name)
        assert problem.costs.cost(config).macs == cost(facts, plain).macs
    assert problem.costs.cost(plain) == problem.costs.cost(
        dataclasses.replace(plain, backbone="big")
    )


def test_a_configuration_is_judged_by_the_backbone_that_it_names() -> None:
    seen: list[str] = []

    def problem(name: str) -> Any:
        def evaluate(config: CompressionConfig, start: int, stop: int) -> Any:
            seen.append(name)
            return fake_problem().evaluate(config, start, stop)

        return fake_problem(evaluate=evaluate)

    both = joined_problem({"big": problem("big"), "small": problem("small")})
    for name in ("small", "big", ""):
        both.evaluate(CompressionConfig(backbone=name), 0, 4)
    assert seen == ["small", "big", "big"]


def test_that_images_are_the_same_is_seen_without_reading_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = Image.new("RGB", (8, 8))
    for number in range(300):
        file = tmp_path / str(number % 10) / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        pixels.save(file)
    read: set[int] = set()
    decode = FolderData._decode

    def counted(data: FolderData, indices: Sequence[int]) -> None:
        read.update(indices)
        decode(data, indices)

    monkeypatch.setattr(FolderData, "_decode", counted)
    build_session(dataclasses.replace(QUESTION, data=str(tmp_path), class_names=None))
    assert 0 < len(read) < 150


def test_methods_are_those_that_fit_each_backbone() -> None:
    bare = dataclasses.replace(SMALL, has_cls=False, cls_is_supervised=False, num_prefix=0)
    one, other = fake_problem(), fake_problem(facts=bare)
    both = joined_problem({"one": one, "other": other}).space.candidates(one.facts)
    each = [p.space.candidates(p.facts) for p in (one, other)]
    assert set(both) == set(each[0]) & set(each[1]) | {"none"}


def test_every_proposal_decodes_to_layers_that_its_backbone_has() -> None:
    problem = joined_problem({"big": fake_problem(), "small": fake_problem(facts=SMALL)})
    for name, depth in (("big", 12), ("small", 6)):

        def last(parameter: Parameter, name: str = name) -> Primitive:
            if parameter.name == "backbone":
                return name
            return parameter.choices[-1] if parameter.choices else parameter.cast(parameter.high)

        params = problem.space.walk(last, problem.facts)
        shape = problem.space.decode(params, problem.facts)
        assert shape.backbone == name
        assert all(layer < depth for layer in shape.layers)


def test_a_search_says_everywhere_whose_each_configuration_is(run: autotok.Run) -> None:
    assert {*run.trials["backbone"]} == {*BOTH}
    assert {*run.front["backbone"]} <= {*BOTH}
    assert run.best.backbone in BOTH
    other = next(name for name in BOTH if name != run.best.backbone)
    assert f"other backbone, {other}: " in (run.directory / "report.html").read_text().replace(
        "Other", "other"
    )
    assert "60% of tiny = " in (run.directory / "config.yaml").read_text()


def test_every_backbone_has_its_uncompressed_row_and_a_paired_verdict(run: autotok.Run) -> None:
    found = run.records()
    references = [r for r in (found["reference"], *found["others"]) if r.origin == "reference"]
    assert {r.backbone for r in references} == {*BOTH}
    assert found["reference"].backbone == run.best.backbone
    for record in (*found["front"], *found["others"]):
        standing = found["comparisons"].of(record.number)
        assert record.number == run.best.number or standing.against_best.num_images == 24
    assert found["others"]


def test_costs_in_the_tables_are_those_of_the_models(run: autotok.Run) -> None:
    for record in run.records()["front"]:
        model = run.load(record)
        assert model.backbone.facts.name == record.backbone
        assert autotok.macs(model).macs == record.costs.macs == record.macs_counted


def test_the_best_is_handed_over_with_its_own_backbone(run: autotok.Run) -> None:
    model = autotok.load(run.directory / "best.yaml")
    assert model.backbone.facts.name == run.best.backbone
    assert model.config == run.best.config
    images = torch.randn(2, *model.backbone.facts.image_shape)
    with torch.inference_mode():
        assert torch.equal(model(images), run.load_best()(images))
    judged = autotok.evaluate(run.directory / "best.yaml", "digits", num_images=24)
    assert round(judged.value, 6) == round(run.best.score.value, 6)


@pytest.mark.slow
def test_an_extended_run_is_one_that_was_longer_from_the_start(
    run: autotok.Run, no_onnx: None, tmp_path: Path
) -> None:
    short = searched(tmp_path / "run", n_trials=3)
    longer = autotok.resume(short.directory, n_trials=5)
    columns = ["number", "backbone", "method", "config_id"]
    assert longer.trials[columns].equals(run.trials[columns])
    ends = [json.loads((r.directory / "pareto.json").read_text())["front"] for r in (run, longer)]
    assert [r["config"] for r in ends[0]] == [r["config"] for r in ends[1]]


@pytest.mark.slow
def test_fine_tunes_of_several_backbones_go_on_where_they_were(
    no_onnx: None, tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("mode: retrain\nfinetune: {length: 2 steps, batch_size: 8, lr: 0.001}\n")
    asked = {"space": str(space), "retrain_trials": 2}
    short = searched(tmp_path / "run", n_trials=2, **asked)
    before = [*short.trials["config_id"]]
    longer = autotok.resume(short.directory, n_trials=3)
    assert [*longer.trials["config_id"]][:2] == before
    assert {*longer.trials[longer.trials["mode"] == "retrain"]["backbone"]} == {*BOTH}
    for record in longer.records()["front"]:
        model = longer.load(record)
        assert model.backbone.facts.name == record.backbone
        judged = autotok.evaluate(model, "digits", num_images=24, precision="float32")
        assert round(judged.value, 6) == round(record.score.value, 6)


def test_another_process_builds_the_same_problem(tmp_path: Path) -> None:
    here = build_session(QUESTION, seed=3, weights=tmp_path / "weights")
    there = ProblemFactory.of(here.question.to_dict(), None, 3, tmp_path)()
    assert there.fingerprint == here.problem.fingerprint
    for name in BOTH:
        config = CompressionConfig(backbone=name)
        assert there.evaluate(config, 0, 8) == here.problem.evaluate(config, 0, 8)


def test_images_that_are_not_labelled_for_every_backbone_are_refused() -> None:
    with pytest.raises(DataError, match="no labels that backbone 'wider' answers in"):
        build_session(dataclasses.replace(QUESTION, backbones=("tiny", "wider")))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"subnet": "search"}, "--subnet search works with one backbone, and 2 were given"),
    ({"checkpoint": __file__}, "--checkpoint works with one backbone"),
    ({"image_sizes": [16, 24]}, "--image-sizes works with one backbone"),
    ({"measure_on": "local"}, "--measure-on local works with one backbone"),
    ({"workers": Workers(engine="ray")}, "--engine ray works with one backbone"),
    ({"quality": "kl"}, "quality 'kl' holds each backbone against its own uncompressed outputs"),
    ({"backbone": ["tiny", "tiny"]}, "backbone 'tiny' is given twice"),
    ({"backbone": ["tiny", "shortr"]}, "did you mean 'shorter'"),
    ({"backbone": ["tiny", 3]}, "several backbones are given by name, not as int"),
    ({"backbone": []}, "not as an empty list"),
    ({"backbone": ["autoformer_demo", "tiny"], "data": None}, "'tiny' needs images to be judged"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    def no_loading(*_: object, **__: object) -> None:
        raise AssertionError("loaded a model first")

    monkeypatch.setattr("autotok.report.search_run.build_session", no_loading)
    asked = {"backbone": BOTH, "data": "digits", "budget": "60%", **given}
    with pytest.raises(AutotokError, match=words):
        autotok.search(output=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("image_size: [16, 24]", "image_size of space"),
        ("subnet: search", "subnet: search of space"),
    ],
)
def test_a_space_of_sizes_or_subnets_is_refused(tmp_path: Path, file: str, words: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(file)
    with pytest.raises(ConfigError, match=f"{words} '.*' works with one backbone, and 2 were"):
        check_names(dataclasses.replace(QUESTION, space=str(path)))


def test_a_run_of_several_does_not_go_on_with_what_works_with_one(
    run: autotok.Run,
) -> None:
    with pytest.raises(ConfigError, match="--measure-on local works with one backbone"):
        autotok.resume(run.directory, measure_on="local")
    with pytest.raises(ConfigError, match="--engine ray works with one backbone"):
        autotok.resume(run.directory, workers=Workers(engine="ray"))


@pytest.mark.slow
def test_a_worker_process_searches_several_backbones(no_onnx: None, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"data": "digits", "budget": "0.002GFLOPs", "n_trials": 3}
    asked |= {"max_images": 8, "timeout_s": None, "retrain_trials": 0, "control_shapes": 0}
    asked |= {"methods": ["tome"], "precision": "float32", "trial_timeout_s": 100.0}
    both = ["tiny", "autoformer_demo"]  # which other processes know by name
    found = autotok.search(both, output=tmp_path / "two", workers=Workers(1), **asked)
    assert not (found.trials["state"] == "failed").any()
    assert found.best.backbone == "tiny"
    assert {r.backbone for r in found.records()["others"]} == {"autoformer_demo"}
