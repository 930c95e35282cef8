"""Top-1 of labelled neighbours: votes by hand, by definition, and what it cannot be asked of."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_accuracy import headless, limited
from torch.nn import functional as F

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.errors import AutotokError, ConfigError, DataError
from autotok.evaluation.data import ArrayData, load_data
from autotok.evaluation.labelled_neighbours import NeighbourEvaluator
from autotok.evaluation.paired import compare
from autotok.evaluation.preprocessing import Preprocessing
from autotok.searching.running.question import Question
from autotok.searching.running.session import build_problem

MERGED = CompressionConfig("tome", (Reduction(1, keep_ratio=0.6),))


def noise(count: int, classes: int | None = 3, name: str = "noise") -> ArrayData:
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = None if classes is None else [i % classes for i in range(count)]
    names = None if classes is None else tuple("abcdef"[:classes])
    return ArrayData(name, pixels, labels, Preprocessing(3, 32, 32, crop_pct=1.0), names)


def evaluator(**given: object) -> NeighbourEvaluator:
    return NeighbourEvaluator(headless(), noise(12), lambda: noise(60), **given)  # type: ignore[arg-type]


def test_near_neighbours_outvote_many_far_ones() -> None:
    judge = evaluator()
    near, far = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    judge._bank = torch.stack([near, *[far] * 19]), torch.tensor([2, *[0] * 19])
    votes = judge.votes(torch.tensor([[5.0, 0.0]]))
    expected = [[19.0, 0.0, math.exp(1 / 0.07)]]
    torch.testing.assert_close(votes, torch.tensor(expected))


@torch.no_grad()
def test_an_image_has_the_class_that_twenty_neighbours_vote_for() -> None:
    backbone, data, training = headless(), noise(12), noise(60)
    judge = NeighbourEvaluator(backbone, data, lambda: training, seed=1)
    model = compress_backbone(backbone, MERGED)
    tally = judge.evaluate(model, 0, 12)
    bank, labels = training.batch(range(60))
    own = data.batch(data.subset(12, 1))
    cosines = F.normalize(model(own[0]), dim=-1) @ F.normalize(backbone(bank), dim=-1).T
    assert labels is not None
    assert own[1] is not None
    right = ""
    for row, label in zip(cosines.double(), own[1], strict=True):
        votes = [0.0] * 3
        for i in row.argsort(descending=True)[:20].tolist():
            votes[int(labels[i])] += math.exp(float(row[i]) / 0.07)
        right += "1" if votes.index(max(votes)) == int(label) else "0"
    assert tally.hits == right
    quality = tally.quality()
    assert quality.value == quality.knn_top1_pct == 100 * right.count("1") / 12
    assert quality.low < quality.value < quality.high
    assert quality.top1_pct is None
    assert "20 nearest labelled training images" in quality.description


def test_parts_add_up_and_are_compared_image_by_image() -> None:
    judge, whole = evaluator(), CompressionConfig()
    model = compress_backbone(judge.backbone, MERGED)
    tally = judge.evaluate(model, 0, 12)
    assert (judge.evaluate(model, 0, 5) + judge.evaluate(model, 5, 12)).hits == tally.hits
    reference = judge.reference(0, 12)
    assert judge.evaluate(compress_backbone(judge.backbone, whole), 0, 12).hits == reference.hits
    paired = compare(vars(tally), vars(reference))
    assert paired is not None
    difference = tally.quality().value - reference.quality().value
    assert paired.difference == pytest.approx(difference)


@pytest.mark.parametrize(
    ("data", "training", "message"),
    [
        (noise(12, None), noise(60), r"which data 'noise' has none of \(.*choose knn"),
        (noise(12), noise(60, None, "plain"), "those of 'plain' are not"),
        (noise(12), noise(60, 4, "other"), "classes of 'noise', and those of 'other' are not"),
        (noise(12), noise(19), "'noise' holds 19 images, and 20 neighbours vote"),
    ],
)
def test_what_it_lacks_is_told(data: ArrayData, training: ArrayData, message: str) -> None:
    with pytest.raises(AutotokError, match=message):
        NeighbourEvaluator(headless(), data, lambda: training)


def test_a_model_with_a_head_is_judged_by_its_own_answers() -> None:
    with pytest.raises(ConfigError, match="'tiny' answers in 10 classes; choose top1"):
        NeighbourEvaluator(tiny_backbone(), noise(12), lambda: noise(60))


def folder(root: Path, splits: dict[str, tuple[str, ...]]) -> Path:
    for split, names in splits.items():
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number * 90, 9, 9)).save(root / split / name / "0.png")
    return root


def test_labels_are_those_of_the_folders_whatever_the_model_knows(tmp_path: Path) -> None:
    root = folder(tmp_path, {"train": ("ape", "bee", "cat"), "val": ("bee", "cat")})
    found = load_data(root, headless(), own_labels=True)
    assert found.class_names == ("ape", "bee", "cat")
    assert found.batch([0, 1])[1].tolist() == [1, 2]  # type: ignore[union-attr]
    assert not load_data(root, headless()).labelled
    assert load_data("digits", headless(), own_labels=True).labelled


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ("ape", "bee"), "val": ("ape", "fly")}, r"class 'fly' \(1 such\) has images to"),
        ({"train": ("ape",), "val": ("ape",)}, "tell two classes apart"),
        ({"val": ("ape", "bee")}, "there are none .*has no sub-folder 'train'"),
    ],
)
def test_folders_that_do_not_do_are_told(
    splits: dict[str, tuple[str, ...]], message: str, tmp_path: Path
) -> None:
    root = folder(tmp_path, splits)
    with pytest.raises(AutotokError, match=message):
        autotok.evaluate(headless(), root, metric="knn_top1")


def test_names_of_the_models_classes_say_nothing_of_the_datas_own(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ape\nbee\n")
    root = folder(tmp_path / "images", {"train": ("ape", "bee")})
    with pytest.raises(DataError, match=r"names\.txt' are the model's, and here the labels"):
        autotok.evaluate(headless(), root, metric="knn_top1", class_names=tmp_path / "names.txt")


def test_a_search_and_an_evaluation_judge_by_it() -> None:
    model = headless().weights
    question = Question(data="digits", quality="knn_top1", budgets=("60%",))
    problem = build_problem(question, model).problem
    tally = problem.evaluate(MERGED, 0, 30)
    compressed = autotok.compress(model, MERGED)
    found = autotok.evaluate(compressed, "digits", metric="knn_top1", num_images=30)
    assert problem.metric == found.metric == "knn_top1"
    assert tally.quality().value == found.value
    assert found.low > 10.0  # ten classes, and even drawn weights see strokes


def test_where_memory_ends_the_bank_is_made_of_smaller_batches() -> None:
    judge, small = evaluator(), evaluator()
    limited(small.backbone, 3)
    small.batch_size = 10
    assert small.reference(0, 12).hits == judge.reference(0, 12).hits
    assert small.batch_size == 2
    assert small._bank is not None
    assert judge._bank is not None
    assert torch.equal(small._bank[1], judge._bank[1])
    torch.testing.assert_close(small._bank[0], judge._bank[0])
