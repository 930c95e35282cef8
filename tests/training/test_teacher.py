"""Another teacher answers on images as it expects them; one that cannot teach is refused."""

from pathlib import Path

import pytest
import torch
from tiny_student import Noise, student
from torch.nn import functional as F

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.tap_request import TapRequest
from autotok.errors import CheckpointError, ConfigError
from autotok.evaluation.preprocessing import Preprocessing, preprocessing_of
from autotok.finetune_spec import FineTuneSpec
from autotok.training.distill import check_losses
from autotok.training.finetune import finetune_student
from autotok.training.teacher import OtherTeacher, check_teacher, check_teacher_classes, teacher_of

CNN = "test_resnet"


def cnn_file(folder: Path, num_classes: int = 10) -> Path:
    import timm

    path = folder / f"cnn{num_classes}.pth"
    torch.save(timm.create_model(CNN, num_classes=num_classes).state_dict(), path)
    return path


def taught_by(path: Path) -> FineTuneSpec:
    return FineTuneSpec(
        length="2 steps", lr=1e-5, batch_size=4, teacher=CNN, teacher_checkpoint=str(path)
    )


def test_a_cnn_teaches_on_images_of_its_own_size_mean_and_deviation(tmp_path: Path) -> None:
    import timm

    path, images = cnn_file(tmp_path), Noise().batch(range(2))[0]
    teacher = teacher_of(taught_by(path), tiny_backbone())
    model = timm.create_model(CNN, num_classes=10, checkpoint_path=str(path)).eval()
    how = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(how[key]).view(3, 1, 1) for key in ("mean", "std"))
    own = preprocessing_of(tiny_backbone())
    pixels = images * torch.tensor(own.std).view(3, 1, 1) + torch.tensor(own.mean).view(3, 1, 1)
    fitted = F.interpolate(
        (pixels - mean) / std, how["input_size"][1:], mode="bicubic", antialias=True
    )
    with torch.no_grad():
        expected = model(fitted)
    torch.testing.assert_close(teacher.logits(images, "float32"), expected, rtol=1e-4, atol=1e-5)
    assert teacher.identity() == teacher_of(taught_by(path), tiny_backbone()).identity()


def test_a_student_learns_from_it(tmp_path: Path) -> None:
    model, spec = student(), taught_by(cnn_file(tmp_path))
    done = finetune_student(model, Noise(24), spec, teacher=teacher_of(spec, tiny_backbone()))
    assert done.steps == 2


def test_a_supported_vit_of_the_same_preprocessing_sees_the_images_untouched() -> None:
    teacher = teacher_of(FineTuneSpec(teacher="tiny"), tiny_backbone(seed=3))
    images = Noise().batch(range(2))[0]
    assert isinstance(teacher, OtherTeacher)
    assert teacher.fitted(images) is images
    with torch.no_grad():
        expected = tiny_backbone()(images)
    torch.testing.assert_close(teacher.observe(images, TapRequest(), "float32").logits, expected)


@pytest.mark.parametrize(("mine", "theirs"), [(1, 3), (3, 1)])
def test_channels_are_repeated_or_averaged(mine: int, theirs: int) -> None:
    given, expects = (Preprocessing(n, 8, 8, mean=(0.0,), std=(1.0,)) for n in (mine, theirs))
    teacher = OtherTeacher(torch.nn.Flatten(), expects=expects, given=given)
    images = torch.rand(2, mine, 8, 8)
    fitted = teacher.fitted(images)
    assert fitted.shape == (2, theirs, 8, 8)
    torch.testing.assert_close(fitted.mean(1), images.mean(1))


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teacher 'test_resnet' knows 7 classes and backbone 'ti"):
        teacher_of(taught_by(cnn_file(tmp_path, 7)), tiny_backbone())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("resnet50", 1000),
        ("deit_small_patch16_224", 1000),
        ("vit_tiny_patch16_224.augreg_in21k", 21843),
        ("vit_base_patch32_clip_224.openai", 0),
    ],
)
def test_a_teacher_of_other_classes_is_known_without_its_weights(name: str, classes: int) -> None:
    facts = tiny_backbone().facts
    words = f"teacher '{name}' knows {classes} classes and backbone 'tin"
    with pytest.raises(ConfigError, match=words):
        check_teacher_classes(FineTuneSpec(teacher=name), facts)
    check_teacher_classes(FineTuneSpec(teacher=name, teacher_checkpoint="a.pth"), facts)
    check_teacher_classes(FineTuneSpec(teacher="tiny"), facts)


def test_the_weights_of_a_teacher_have_an_option_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise CheckpointError("weights could not be fetched; give a local file with --checkpoint")

    monkeypatch.setattr("autotok.training.teacher.load_backbone", offline)
    with pytest.raises(CheckpointError, match="give a local file with --teacher-checkpoint"):
        teacher_of(FineTuneSpec(teacher="deit_small_patch16_224"), tiny_backbone())


def test_weights_that_are_not_the_teachers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(10, 3)}, path)
    with pytest.raises(CheckpointError, match="do not fit teacher 'test_resnet'"):
        teacher_of(taught_by(path), tiny_backbone())
    torch.save({"weight": torch.zeros(10, 3)}, path)
    with pytest.raises(CheckpointError, match="hold no classifier of 'test_resnet'"):
        teacher_of(taught_by(path), tiny_backbone())


def test_a_teacher_is_known_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="teacher 'resnet_of_nobody' is unknown; did you mean 'resnet"
    ):
        check_teacher(FineTuneSpec(teacher="resnet_of_nobody"))
    with pytest.raises(CheckpointError, match="does not exist"):
        check_teacher(taught_by(tmp_path / "none.pth"))
    with pytest.raises(ConfigError, match=r"'a.pth' is given without a teacher"):
        check_teacher(FineTuneSpec(teacher_checkpoint="a.pth"))


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"mimic": 1.0}, "another teacher is asked for its answers only"),
        ({"ce": 1.0}, "teacher 'tiny' is given, and no loss learns from it"),
    ],
)
def test_losses_that_another_teacher_cannot_serve_are_refused(
    losses: dict[str, float], words: str
) -> None:
    spec = FineTuneSpec(teacher="tiny", losses=losses)
    with pytest.raises(ConfigError, match=words):
        check_losses(student(), spec, teacher_of(spec, tiny_backbone()), Noise())


@pytest.mark.parametrize("theirs", ["bacdefghij", "jihgfedcba", "klmnopqrst"])
def test_a_teacher_of_the_same_classes_in_another_order_is_refused(
    theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = tiny_backbone(), tiny_backbone()
    other.model.pretrained_cfg = {"label_names": list(theirs)}
    monkeypatch.setattr("autotok.training.teacher.load_backbone", lambda *_, **__: other)
    teacher_of(FineTuneSpec(teacher="tiny"), own)  # which has no names
    own.model.pretrained_cfg = {"label_names": list("abcdefghij")}
    words = f"class 0 is '{theirs[0]}' to teacher 'tiny' and 'a' to backbone '.*'; give a teacher"
    with pytest.raises(ConfigError, match=words):
        teacher_of(FineTuneSpec(teacher="tiny"), own)
