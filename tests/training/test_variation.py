"""Images, labels and depth vary by seed and place alone, and timm decides how."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_student import Noise, same, student, weights
from torch import Tensor

from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ConfigError, UnknownName
from autotok.finetune_spec import FineTuneSpec
from autotok.training.finetune import finetune_student
from autotok.training.finetuned import FineTuneProgress
from autotok.training.losses import cross_entropy
from autotok.training.teacher import Teacher
from autotok.training.variation import StochasticDepth, Variation, check_variation, drawing_from

from timm.data.auto_augment import rand_augment_transform  # isort: skip

STRONG = FineTuneSpec(
    length="2 steps",
    lr=1e-5,
    batch_size=4,
    augment="resized-crop-flip",
    randaugment="rand-m9-mstd0.5-inc1",
    random_erasing=0.5,
    mixup=0.8,
    cutmix=1.0,
    drop_path=0.3,
    ema_decay=0.99,
    losses={"ce": 1.0, "nkd": 1.0, "standardised": 1.0},
    label_smoothing=0.1,
)


def variation(spec: FineTuneSpec) -> Variation:
    return Variation(spec, tiny_backbone())


def varied(spec: FineTuneSpec, number: int = 0, rows: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    images, labels = Noise().batch(rows)
    return variation(spec)(images, labels, number, rows, 4)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": "crop-flip"},
        {"augment": "resized-crop-flip"},
        {"randaugment": "rand-m9-mstd0.5-inc1"},
        {"random_erasing": 1.0},
        {"mixup": 0.8},
        {"cutmix": 1.0},
    ],
    ids=str,
)
def test_a_part_of_a_batch_varies_as_in_the_whole_and_never_twice_alike(
    changes: dict[str, str | float],
) -> None:
    spec = FineTuneSpec.from_dict(changes)
    before, whole = torch.random.get_rng_state(), varied(spec)
    assert whole.shape == (4, 3, 32, 32)
    assert torch.equal(varied(spec), whole)
    assert torch.equal(varied(spec, rows=(1, 2)), whole[1:3])
    assert not torch.equal(varied(spec, number=1), whole)
    assert not torch.equal(whole, Noise().batch(range(4))[0])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert spec.varies


def test_nothing_asked_leaves_images_and_labels_as_they_are() -> None:
    images, labels = Noise().batch(range(4))
    found = variation(FineTuneSpec())(images, labels, 0, range(4), 4)
    assert found[0] is images
    assert found[1] is labels
    assert not FineTuneSpec().varies


def test_mixed_labels_and_their_loss_are_timms() -> None:
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy

    spec = FineTuneSpec(mixup=0.8, label_smoothing=0.1)
    images, labels = Noise().batch(range(4))
    assert labels is not None
    _, shares = variation(spec)(images, labels, 0, range(4), 4)
    assert shares is not None
    torch.testing.assert_close(shares.sum(-1), torch.ones(4))
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    with drawing_from(spec.seed, 0x313C, 0):
        _, smoothed = Mixup(0.8, 0.0, label_smoothing=0.1, num_classes=10)(images, labels)
    torch.testing.assert_close(
        cross_entropy(logits, shares, label_smoothing=0.1),
        SoftTargetCrossEntropy()(logits, smoothed),
    )


def test_images_without_labels_are_mixed_all_the_same() -> None:
    images = Noise().batch(range(4))[0]
    mixed, labels = variation(FineTuneSpec(mixup=0.8))(images, None, 0, range(4), 4)
    assert labels is None
    assert not torch.equal(mixed, images)


def test_no_bit_of_a_posterised_image_may_be_left() -> None:
    """Of 15 operations five are drawn, and at level 10 this one keeps none."""
    spec = FineTuneSpec(randaugment="rand-m10-n5-inc1")
    for number in range(8):
        assert varied(spec, number).isfinite().all()


def test_a_grey_image_stays_grey() -> None:
    spec = FineTuneSpec(randaugment="rand-m9")
    backbone = load_structure("autoformer_demo")
    images = torch.rand(2, *backbone.facts.image_shape)
    assert images.shape[1] == 1
    varied = Variation(spec, backbone)(images, None, 0, range(2), 2)[0]
    assert varied.shape == images.shape
    assert not torch.equal(varied, images)


def test_stochastic_depth_leaves_out_more_with_depth_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    thin, ones = StochasticDepth(0.5, 3), torch.ones(4000, 1, 1)
    assert torch.equal(thin(0, ones), ones)
    last = thin(2, ones)
    assert set(last.unique().tolist()) == {0.0, 2.0}
    assert (last == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (thin(1, ones) == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_both_branches_of_every_block_are_thinned_in_training_alone() -> None:
    model, seen = student(), list[int]()
    images = Noise().batch(range(2))[0]
    before = model.eval()(images)
    model.thin = lambda layer, branch: (seen.append(layer), 0.0 * branch)[1]
    assert torch.equal(model.eval()(images), before)
    assert not seen
    model.train()(images)
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def tuned(spec: FineTuneSpec, data: Noise | None = None) -> tuple[torch.nn.Module, list[int]]:
    model, data = student(), data or Noise(24)
    done = finetune_student(model, data, spec, teacher=Teacher(tiny_backbone()))
    assert done.steps == 2
    assert model.thin is None
    return model, [step for step, _ in done.held_out]


def test_a_strong_fine_tune_is_the_same_twice_and_judges_its_start_too() -> None:
    (first, judged), (again, _) = tuned(STRONG), tuned(STRONG)
    assert same(weights(first), weights(again))
    assert judged[0] == 0
    assert judged[-1] == 2


def test_a_strong_fine_tune_goes_on_to_the_bit(tmp_path: Path) -> None:
    def stop(_: FineTuneProgress) -> None:
        raise KeyboardInterrupt

    teacher, resumed = Teacher(tiny_backbone()), student()
    with pytest.raises(KeyboardInterrupt):
        finetune_student(
            student(), Noise(24), STRONG, teacher=teacher, checkpoint=tmp_path / "c.pt",
            checkpoint_every_s=0.0, on_progress=stop,
        )  # fmt: skip
    done = finetune_student(
        resumed, Noise(24), STRONG, teacher=teacher, checkpoint=tmp_path / "c.pt"
    )
    assert done.steps == 2
    assert same(weights(resumed), weights(tuned(STRONG)[0]))


def test_without_labels_mixed_images_are_answered_by_the_teacher() -> None:
    spec = dataclasses.replace(STRONG, losses={"soft": 1.0}, label_smoothing=0.0)
    assert tuned(spec, Noise(24, labelled=False))[1][-1] == 2


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"label_smoothing": 0.1}, ConfigError, "label_smoothing 0.1 needs labels, but data 'no"),
        ({"mixup": 0.8}, ConfigError, "a batch has 3; give an even batch_size"),
        (
            {"augment": "crop"},
            UnknownName,
            "known: crop-flip, none, resized-crop-flip",
        ),
    ],
)
def test_what_cannot_be_varied_is_told(
    changes: dict[str, str | float], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_variation(FineTuneSpec.from_dict(changes), Noise(labelled=False), 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"randaugment": "strong"}, "randaugment 'strong' is not understood"),
        ({"randaugment": "rand-m9.5"}, "randaugment 'rand-m9.5' is not understood; .*m, n, mmax"),
        ({"mixup": -1.0}, "mixup is -1.0; it must be within 0.0 to 100.0"),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be within 0.0 to 0.9"),
    ],
)
def test_a_setting_out_of_range_is_told(changes: dict[str, str | float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FineTuneSpec.from_dict(changes)


def test_settings_at_their_defaults_stay_out_of_the_record() -> None:
    assert set(FineTuneSpec().to_dict()) == {"length", "losses"}
    assert FineTuneSpec.from_dict(STRONG.to_dict()) == STRONG
    assert np.isclose(STRONG.mixup, 0.8)


def test_labels_are_smoothed_for_a_loss_that_takes_them() -> None:
    spec = FineTuneSpec(losses={"soft": 1.0, "nkd": 1.0}, label_smoothing=0.5)
    with pytest.raises(ConfigError, match=r"is of loss 'ce' alone, and the losses are nkd, soft;"):
        check_variation(spec, Noise(), 4)
    check_variation(dataclasses.replace(spec, losses={"ce": 1.0}), Noise(), 4)


@pytest.mark.parametrize("part", ["m9", "n3", "mmax12", "inc1", "p0.7", "mstd0.5", "mstd1"])
def test_every_part_of_timms_notation_is_one_that_timm_reads(part: str) -> None:
    word = FineTuneSpec(randaugment=f"rand-{part}").randaugment
    assert rand_augment_transform(word, {}).ops
