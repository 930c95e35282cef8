"""The teacher is frozen and asked once; losses that cannot be used are refused beforehand."""

import pytest
import torch
from tiny_student import Noise, pruned, student
from torch import Tensor

from autotok.backbones.timm_vit import TimmViT
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError, UnknownName
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.finetune_spec import FineTuneSpec
from autotok.tokens import Needs
from autotok.training.distill import (
    TrainingObjective,
    check_losses,
    default_losses,
)
from autotok.training.finetune import finetune_student
from autotok.training.losses import LOSSES, align
from autotok.training.student import student_of
from autotok.training.teacher import GROUP, OtherTeacher, Teacher, observe

INSIDE = {"mimic": 1.0, "relations": 1.0, "tokens": 1.0}


def images(count: int = 3) -> Tensor:
    return Noise().batch(range(count))[0]


def loss_of(model: CompressedViT, losses: dict[str, float], teacher: Teacher | None) -> Tensor:
    spec, data = FineTuneSpec(losses=losses), Noise()
    check_losses(model, spec, teacher, data)
    batch, labels = data.batch(range(3))
    objective = TrainingObjective(model, spec, teacher, data, "float32")
    loss: Tensor = objective(model, batch, labels, range(3))
    return loss


def headless() -> TimmViT:
    return TimmViT(tiny_vit(num_classes=10).eval(), name="features")


@pytest.mark.parametrize("other", [True, False])
def test_features_of_another_width_are_refused_before_anything_is_learned(other: bool) -> None:
    def features(width: int) -> TimmViT:
        model = tiny_vit(width=width, heads=3)
        model.reset_classifier(0)
        return TimmViT(model.eval(), name=f"features_{width}")

    narrow, wide = features(48), features(96)
    teacher = Teacher(wide)
    if other:
        how = preprocessing_of(wide)
        teacher = OtherTeacher(wide, expects=how, given=how)
    spec = FineTuneSpec(losses={"cosine": 1.0}, teacher="dinov2_of_another_width")
    words = (
        "loss 'cosine' compares features, of which teacher 'dinov2_of_another_width' gives 96 and"
        " backbone 'features_48' 48; give a teacher of the same width"
    )
    with pytest.raises(ConfigError, match=words):
        check_losses(student_of(narrow, pruned()), spec, teacher, Noise())
    check_losses(student_of(wide, pruned()), spec, teacher, Noise())


# --- the teacher


def test_the_teachers_logits_are_the_backbones_and_carry_no_gradient() -> None:
    backbone = tiny_backbone()
    got = Teacher(backbone).logits(images(), "float32")
    torch.testing.assert_close(got, backbone(images()).detach())
    assert not got.requires_grad


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_depend_on_the_image_alone_and_are_worked_out_once(precision: str) -> None:
    data, batch = Noise(), images(12)
    teacher = Teacher(tiny_backbone())
    calls = []
    run = teacher.logits
    teacher.logits = lambda x, p: (calls.append(len(x)), run(x, p))[1]  # type: ignore[method-assign]
    first = teacher.cached_logits(data, [0, 1], batch[:2], precision)
    mixed = teacher.cached_logits(data, [3, 1, 2], batch[[3, 1, 2]], precision)
    assert calls == [GROUP, GROUP, GROUP]  # the first to see that all places are alike
    assert torch.equal(mixed[1], first[1])
    assert len(calls) == 3
    order = [11, 2, 3, 7, 5, 0, 1, 9, 10]
    other = Teacher(tiny_backbone()).cached_logits(data, order, batch[order], precision)
    assert torch.equal(mixed[0], other[2])
    assert torch.equal(first, other[[5, 6]])


def test_where_the_place_in_a_batch_matters_images_run_alone() -> None:
    class Placed(Teacher):
        def logits(self, images: Tensor, precision: str) -> Tensor:
            return super().logits(images, precision) + 1e-7 * torch.arange(len(images))[:, None]

    data, batch = Noise(), images(3)
    teacher = Placed(tiny_backbone())
    together = teacher.cached_logits(data, [0, 1, 2], batch, "float32")
    torch.testing.assert_close(
        together[2], Teacher(tiny_backbone()).logits(batch[2:], "float32")[0]
    )
    assert teacher._group(batch[0], "float32") == 1


def test_another_data_source_is_not_answered_from_memory() -> None:
    teacher, batch = Teacher(tiny_backbone()), images(2)
    first = teacher.cached_logits(Noise(), [0], batch[:1], "float32")
    other = teacher.cached_logits(Noise(), [0], batch[1:], "float32")
    assert not torch.equal(first, other)


def test_the_memory_is_bounded_and_a_full_one_still_answers() -> None:
    data, batch = Noise(), images(3)
    small = Teacher(tiny_backbone(), cache_bytes=2 * 10 * 4)
    got = small.cached_logits(data, [0, 1, 2], batch, "float32")
    assert len(small._cache) == 2
    assert torch.equal(got, small.cached_logits(data, [0, 1, 2], batch, "float32"))


def test_a_backbone_in_training_mode_teaches_in_evaluation_mode_and_stays_as_it_was() -> None:
    backbone = tiny_backbone().train()
    backbone.model.blocks[0].attn.proj_drop.p = 0.9
    got = Teacher(backbone).logits(images(), "float32")
    assert backbone.training
    torch.testing.assert_close(got, tiny_backbone()(images()).detach())


# --- what the student shows on the way


def test_watching_a_forward_changes_nothing_of_it() -> None:
    model = student("tome").eval()
    watch = TapRequest(frozenset({0, 3}), {3: Needs.QUERIES | Needs.VALUES})
    with torch.no_grad():
        seen = observe(model, images(), watch, trace=True)
        assert torch.equal(seen.logits, model(images()))
    assert [seen.watch.tokens[layer].num_patches for layer in (0, 3)] == [8, 5]
    tokens, taps = seen.watch.taps[3]
    assert taps.queries.shape == (3, 3, 1 + 5, 16)
    assert taps.names() == ("queries", "values")
    assert tokens.source is not None
    assert seen.watch.tokens.keys() == {0, 3}


@pytest.mark.parametrize("method", ["none", "topk", "tome"])
def test_a_student_that_holds_all_its_teacher_does_has_nothing_to_learn_inside(
    method: str,
) -> None:
    config = CompressionConfig() if method == "none" else CompressionConfig(method, ())
    model = student_of(tiny_backbone(), config)
    assert loss_of(model, INSIDE, Teacher(tiny_backbone())).item() == pytest.approx(0.0, abs=1e-5)


def test_pruned_features_are_compared_with_the_teachers_at_the_kept_patches() -> None:
    model, teacher = student("topk"), Teacher(tiny_backbone())
    config = FineTuneSpec(losses={"mimic": 1.0})
    seen = observe(model, images(), TapRequest(frozenset({0, 1})), trace=True)
    full = teacher.observe(images(), TapRequest(frozenset({0, 1})), "float32")
    total = 0.0
    for layer in (0, 1):
        tokens = seen.watch.tokens[layer]
        assert tokens.source is not None
        index = tokens.source.int().argmax(-1)  # (B, n)
        theirs = full.watch.tokens[layer].x
        for b in range(3):
            kept = torch.cat([theirs[b, :1], theirs[b, 1:][index[b]]])
            torch.testing.assert_close(align(theirs, tokens.source, 1)[b], kept)
            total += (tokens.x[b] - kept).square().sum().item()
    expected = 3e-5 * total / 3
    assert loss_of(model, dict(config.losses), teacher).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["topk", "evit", "tome", "tofu", "pitome"])
@pytest.mark.parametrize("name", sorted(n for n, loss in LOSSES.items() if not loss.exits))
def test_every_loss_is_finite_and_moves_the_student(method: str, name: str) -> None:
    model = student(method)
    loss = loss_of(model, {name: 1.0}, Teacher(tiny_backbone(seed=1)))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.isfinite(loss)
    assert sum(g.abs().sum().item() for g in gradients) > 0


def test_mimic_learns_a_linear_per_layer_only_where_widths_differ() -> None:
    wide = Teacher(TimmViT(tiny_vit(width=96), name="wide"))
    spec, data = FineTuneSpec(length="2 steps", losses={"mimic": 1.0}, batch_size=4), Noise()
    same = TrainingObjective(student(), spec, Teacher(tiny_backbone()), data, "float32")
    other = TrainingObjective(student(), spec, wide, data, "float32")
    assert not list(same.parameters())
    assert [p.shape for p in other.parameters() if p.dim() == 2] == [(96, 48), (96, 48)]
    assert finetune_student(student(), data, spec, teacher=wide).steps == 2


def test_a_frozen_model_needs_no_teacher_for_labels() -> None:
    assert loss_of(student(), {"ce": 1.0}, None).item() > 0


# --- what is refused


@pytest.mark.parametrize("name", ["ce", "dkd"])
def test_without_labels_only_distillation_is_allowed(name: str) -> None:
    data, spec = Noise(labelled=False), FineTuneSpec(losses={name: 1.0})
    with pytest.raises(ConfigError, match=f"'{name}' needs labels.*choose among soft"):
        finetune_student(student(), data, spec, teacher=Teacher(tiny_backbone()))
    assert data.drawn == []
    soft = FineTuneSpec(length="1 steps", batch_size=4)
    assert finetune_student(student(), data, soft, teacher=Teacher(tiny_backbone())).steps == 1


def test_a_teacher_is_asked_for_where_a_loss_learns_from_one() -> None:
    with pytest.raises(ConfigError, match="'soft' learns from the uncompressed model"):
        loss_of(student(), {"soft": 1.0}, None)


def test_a_model_without_classes_is_distilled_by_its_features() -> None:
    model = tiny_vit()
    model.reset_classifier(0)
    backbone = TimmViT(model.eval(), name="headless")
    learner = student_of(backbone, pruned())
    with pytest.raises(ConfigError, match="has no classifier; choose among cosine"):
        loss_of(learner, {"soft": 1.0}, Teacher(backbone))
    assert default_losses(backbone.facts) == {"cosine": 1.0}
    assert loss_of(learner, default_losses(backbone.facts), Teacher(backbone)).item() > 0


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("soft", {"num_classes": 7}, "the teacher has 7 classes, not 10"),
        ("tokens", {"patch_size": 16}, "tokens stand for other patches"),
        ("tokens", {"width": 96}, "their widths differ"),
        ("relations", {"width": 64, "heads": 4}, "3 and 4 heads"),
        ("mimic", {"num_blocks": 1}, "the first two blocks, and there are fewer"),
    ],
)
def test_a_teacher_that_cannot_be_compared_is_refused(
    name: str, other: dict[str, int], words: str
) -> None:
    teacher = Teacher(TimmViT(tiny_vit(**other), name="other"))
    with pytest.raises(ConfigError, match=rf"'{name}' cannot be used with method 'evit'.*{words}"):
        loss_of(student(), {name: 1.0}, teacher)


def test_an_unknown_loss_is_named_before_anything_is_trained() -> None:
    data = Noise()
    with pytest.raises(UnknownName, match="did you mean 'relations'"):
        finetune_student(
            student(), data, FineTuneSpec(losses={"relation": 1.0}), teacher=Teacher(headless())
        )
    assert data.drawn == []


def test_positions_of_merged_tokens_keep_their_sources() -> None:
    config = CompressionConfig("tome", (Reduction(0, num_keep=9), Reduction(1, num_keep=5)))
    model = compress_backbone(tiny_backbone(), config)
    tokens = model.forward_tokens(images(), trace=True)
    assert tokens.source is not None
    assert torch.equal(tokens.source.sum(dim=1), torch.ones(3, 16, dtype=torch.int64))
