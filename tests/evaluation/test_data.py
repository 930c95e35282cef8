"""Data by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.loading import load_backbone, save_backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import DataError
from autotok.evaluation.data import ArrayData, load_data, told_of
from autotok.evaluation.demo import CANVAS, DemoDigits
from autotok.evaluation.preprocessing import Preprocessing


def test_digits_are_labelled_for_a_model_of_ten_classes() -> None:
    backbone = tiny_backbone()
    data = load_data("digits", backbone)
    images, labels = data.batch(data.subset(20, 0))
    assert images.shape == (20, 3, 32, 32)
    assert labels is not None
    assert labels.bincount(minlength=10).min() >= 1
    assert len(data) + len(load_data("digits", backbone, split="train")) == 1797


@pytest.mark.parametrize("data", ["digits", "demo"])
def test_a_model_of_ten_other_classes_is_not_judged_by_digits(data: str) -> None:
    backbone = tiny_backbone()
    backbone.model.pretrained_cfg = {"label_names": list("abcdefghij")}
    found = load_data(data, backbone)
    assert not found.labelled
    assert "other ones" in found.labelling
    assert load_data(data, backbone, own_labels=True).labelled
    backbone.model.pretrained_cfg = {"label_names": list(map(str, range(10)))}
    assert load_data(data, backbone).labelled


def test_demo_images_reach_the_demo_model_as_they_are_drawn() -> None:
    spec = SupernetSpec(
        embed_dim=16, depth=1, heads=1, mlp_ratio=1.0, embed_choices=(16,), depth_choices=(1,),
        heads_choices=(1,), mlp_ratio_choices=(1.0,), image_shape=(1, CANVAS, CANVAS),
        patch_size=8, num_classes=10, head_dim=16,
    )  # fmt: skip
    data = load_data("demo", AutoFormer(spec, spec.largest()))
    images, labels = data.batch([7])
    expected, label = DemoDigits("val", 10)[7]
    assert torch.equal(images[0], expected)
    assert labels is not None
    assert labels.tolist() == [label]


def test_demo_images_are_fitted_to_another_model() -> None:
    data = load_data("demo", tiny_backbone())
    images, labels = data.batch(data.subset(3, 0))
    assert images.shape == (3, 3, 32, 32)
    assert labels is not None


def test_arrays_without_labels_are_label_free() -> None:
    grey = np.zeros((4, 8, 8), dtype=np.uint8)
    data = ArrayData("zeros", grey, None, Preprocessing(3, 16, 16), ("a", "b"))
    images, labels = data.batch(data.subset(2, 0))
    assert images.shape == (2, 3, 16, 16)
    assert labels is None
    assert data.class_names is None


def test_cifar10_that_cannot_be_downloaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    def offline(self: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"cannot be downloaded .*unreachable.*cifar10:FOLDER"):
        load_data(f"cifar10:{tmp_path}", tiny_backbone())


def test_an_unknown_name_is_taken_for_a_folder_and_refused() -> None:
    with pytest.raises(DataError, match=r"'cifar-100' does not exist; .*demo, digits, cifar10"):
        load_data("cifar-100", tiny_backbone())


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="split 'test' is unknown"):
        load_data("digits", tiny_backbone(), split="test")


def test_beside_a_weight_file_it_is_said_how_images_are_prepared(tmp_path: Path) -> None:
    save_backbone(tiny_backbone(), tmp_path / "w.safetensors", name="tiny")
    backbone = load_backbone("tiny", checkpoint=tmp_path / "w.safetensors")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    folder, named = load_data(tmp_path, backbone), load_data("digits", backbone)
    words = "images: prepared as 'tiny' says, not the file: mean 0.485 0.456 0.406, std"
    assert told_of(folder, backbone)[1].startswith(words)
    assert told_of(folder, tiny_backbone()) == (folder.labelling,)
    assert told_of(named, backbone) == (named.labelling,)
