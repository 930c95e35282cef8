"""CF-ViT: a coarse pass, a second one with the chosen patches split, and an exit in between."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.two_pass import TwoPassViT
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError, IncompatibleMethod, UnsupportedBackbone
from autotok.methods.cfvit import CFViT, children, num_split
from autotok.methods.learning import LossContext
from autotok.methods.primitives import confidence
from autotok.testing import default_backbones

NAMES = {backbone.facts.name: backbone for backbone in default_backbones()}


def model(keep: int | None = None, **options: float) -> TwoPassViT:
    config = CompressionConfig("cfvit", (Reduction(0, num_keep=keep),), options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = compress_backbone(tiny_backbone(), config).eval()
    assert isinstance(made, TwoPassViT)
    with torch.no_grad():  # as they are born they hardly matter
        for parameter in made.method.parameters():
            parameter.mul_(10.0)
    return made


def cfvit(made: TwoPassViT) -> CFViT:
    found = made.method
    assert isinstance(found, CFViT)
    return found


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_children_are_the_four_fine_patches_quarter_by_quarter() -> None:
    coarse = torch.tensor([[0, 3]])  # of 2 x 2: the top left and the bottom right one
    assert children(coarse, (4, 4)).tolist() == [[0, 10, 1, 11, 4, 14, 5, 15]]
    assert children(torch.tensor([[4]]), (4, 6)).tolist() == [[14, 15, 20, 21]]  # 2 x 3 coarse


@torch.no_grad()
def test_branches_of_both_passes_are_left_out_in_training() -> None:
    seen: list[int] = []
    made = model().train()
    made.thin = lambda layer, branch: seen.append(layer) or branch
    made.forward_tokens(images())
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3] * 2


@torch.no_grad()
def test_split_patches_stand_for_one_and_the_others_for_four() -> None:
    made = model(alpha=0.5)
    fine = made.forward_tokens(images(), trace=True)
    assert fine.size is not None
    assert fine.source is not None
    assert fine.size.tolist() == [[1.0] * 8 + [4.0] * 2] * 4
    assert torch.equal(fine.source.sum(dim=2), fine.size.long())
    assert torch.equal(fine.source.sum(dim=1), torch.ones(4, 16, dtype=torch.long))


@torch.no_grad()
def test_with_every_patch_split_and_nothing_reused_it_is_the_plain_model() -> None:
    made = model(alpha=1.0)
    assert made.forward_tokens(images()).num_patches == 16
    reused = made.backbone.readout(made.forward_tokens(images()))
    last = cfvit(made).reuse[1].get_submodule("fc2")
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.zero_()
    plain = tiny_backbone()(images())
    found = made.backbone.readout(made.forward_tokens(images()))
    torch.testing.assert_close(found, plain, rtol=0.0, atol=1e-5)
    assert float((reused - plain).abs().max()) > 1e-2


@torch.no_grad()
def test_with_nothing_split_the_second_pass_is_the_first_with_its_fine_class_row() -> None:
    made = model(alpha=0.0)
    first = made.first(images())
    entering = cfvit(made).second_tokens(made.backbone, images(), first)
    assert entering.num_patches == 4
    order = first.score.argsort(dim=1, descending=True)
    coarse = first.embedded[:, 1:].gather(1, order[..., None].expand(-1, -1, 48))
    assert torch.equal(entering.patches, coarse)


@torch.no_grad()
def test_a_threshold_of_0_is_the_coarse_pass_and_one_above_1_the_fine_pass() -> None:
    made = model(threshold=0.0)
    coarse = made.first(images()).logits
    assert torch.equal(made(images()), coarse)
    every = model(threshold=1.1)
    fine = every.backbone.readout(every.forward_tokens(images()))
    assert torch.equal(every(images()), fine)
    assert not torch.allclose(coarse, fine, atol=1e-3)


@torch.no_grad()
def test_unsure_images_alone_are_looked_at_again_and_none_notices_its_batch() -> None:
    sure = confidence(model().first(images()).logits).sort().values
    made = model(threshold=float(sure[1:3].mean()))
    answer = made.answer(images())
    assert int(answer.refined.sum()) == 2
    coarse, fine = model(threshold=0.0)(images()), model(threshold=1.1)(images())
    expected = torch.where(answer.refined[:, None], fine, coarse)
    torch.testing.assert_close(answer.logits, expected, rtol=0.0, atol=1e-5)
    alone = torch.cat([made(images()[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(answer.logits, alone, rtol=0.0, atol=1e-5)


@torch.no_grad()
def test_an_image_size_is_that_of_both_passes_and_other_sizes_are_refused() -> None:
    config = CompressionConfig("cfvit", (Reduction(0),), {"threshold": 1.1}, image_size=16)
    made, large = compress_backbone(tiny_backbone(), config).eval(), images()
    assert isinstance(made, TwoPassViT)
    small = F.interpolate(large, size=(16, 16), mode="bilinear", align_corners=True)
    assert torch.equal(made(large), made(small))
    assert torch.equal(made.first(large).logits, made.first(small).logits)
    assert torch.equal(made.second(large, made.first(large)), made(small))
    assert made.forward_tokens(large).num_patches == made.schedule.attention[0]
    for given in (large[:, :, :16], F.pad(large, (0, 16))):
        with pytest.raises(ConfigError, match="give images of that size"):
            model()(given)


@torch.no_grad()
def test_embedding_the_chosen_patches_alone_is_the_released_form() -> None:
    made, given = model(alpha=0.5).double(), images().double()
    method, first = cfvit(made), made.first(given)
    tokens, stem = made.forward_tokens(given, trace=True), made.backbone.stem_parts()
    whole = stem.patches(given) + stem.positions[:, 1:]  # every fine patch
    reused = method.reuse(stem.norm(first.tokens.x)[:, 1:])  # of every coarse one
    up = F.interpolate(reused.mT.unflatten(-1, (2, 2)), scale_factor=2, mode="nearest")
    whole = whole + up.flatten(2).mT
    entering = method.second_tokens(made.backbone, given, first, trace=True)
    assert entering.source is not None
    for image in range(4):
        where = entering.source[image, :8].int().argmax(dim=1)
        split = entering.patches[image, :8]
        torch.testing.assert_close(split, whole[image, where], rtol=0.0, atol=1e-12)
    assert tokens.num_patches == entering.num_patches == 10


def test_an_amount_is_the_most_tokens_of_the_second_pass() -> None:
    facts, options = tiny_backbone().facts, CFViT.resolve_options({})
    found = [int(num_split(facts, options, keep)) for keep in (4, 6, 7, 12, 13, 16)]
    assert found == [0, 0, 1, 2, 3, 2]  # all 16: alpha, half of 4
    assert model(keep=7).forward_tokens(images()).num_patches == 7
    assert model(keep=7).schedule.readout == 7


def test_the_coarse_answer_learns_from_the_fine_one_and_not_the_other_way() -> None:
    made = model().train()
    tokens = made.forward_tokens(images())
    logits = made.backbone.readout(tokens)
    loss = cfvit(made).extra_loss(LossContext(tokens, logits))
    assert loss is not None
    loss.backward()
    used = {n: p.grad for n, p in cfvit(made).named_parameters() if p.grad is not None}
    assert set(used) == {"positions"}  # the fine pass alone reuses


def test_nothing_is_chosen_in_the_first_two_thirds_of_training() -> None:
    made = model().train()
    counts = []
    for progress in (0.0, 0.66, 0.68):
        cfvit(made).begin_step(progress)
        counts.append(made.forward_tokens(images()).num_patches)
    assert counts == [16, 16, 10]
    cfvit(made).begin_step(0.0)
    assert made.eval().forward_tokens(images()).num_patches == 10


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny_pooled", "a stem that embeds each patch by itself"),
        ("tiny_autoformer", "a stem that embeds each patch by itself"),
    ],
)
def test_a_backbone_whose_tokens_are_made_otherwise_is_refused_by_name(
    name: str, words: str
) -> None:
    config = CompressionConfig("cfvit", (Reduction(0),))
    with pytest.raises(IncompatibleMethod, match=f"'cfvit' needs {words}.*'{name}'"):
        compress_backbone(NAMES[name], config)
    with pytest.raises(UnsupportedBackbone, match="makes its tokens in a way of its own"):
        NAMES["tiny_autoformer"].stem_parts()
