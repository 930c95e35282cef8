import dataclasses

import pytest
import torch
from hand import tokens
from torch.nn import functional as F

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.methods import Site, get_method
from autotok.methods.learning import LossContext
from autotok.methods.sit import SiT
from autotok.testing import synthetic_facts
from autotok.tokens import Taps


def site(layer: int, layers: tuple[int, ...], index: int, *, keep: int = 4) -> SiT:
    options = SiT.resolve_options({})
    return SiT(Site(layer, 15, keep, synthetic_facts(1), index, layers), options)


def test_outputs_are_convex_combinations_of_the_tokens() -> None:
    method = site(1, (1,), 0).eval()
    patches = torch.randn(15, 16, generator=torch.Generator().manual_seed(0))
    constant = tokens(torch.ones(15, 16) * 3)
    torch.testing.assert_close(
        method.reduce(constant, Taps(), 4).patches, torch.full((1, 4, 16), 3.0)
    )
    out = method.reduce(tokens(patches), Taps(), 4).patches[0]
    assert (out <= patches.amax(dim=0)).all()
    assert (out >= patches.amin(dim=0)).all()


def test_a_large_scale_picks_single_tokens() -> None:
    method = site(1, (1,), 0).eval()
    with torch.no_grad():
        method.scale.fill_(1e6)
    patches = torch.randn(15, 16, generator=torch.Generator().manual_seed(1))
    out = method.reduce(tokens(patches), Taps(), 4).patches[0]
    nearest = torch.cdist(out, patches).amin(dim=1)
    assert nearest.max() < 1e-4


def test_sites_share_the_blocks_of_recalibration_between_them() -> None:
    first, second = site(2, (2, 4), 0), site(4, (2, 4), 1)
    assert sorted(map(int, first.reverse)) == [1, 2]
    assert sorted(map(int, second.reverse)) == [3, 4, 5]
    assert first.teacher_layers() == {0, 1, 2}
    assert second.teacher_layers() == {3, 4, 5}


def trained() -> tuple[CompressedViT, LossContext]:
    backbone = tiny_backbone()
    config = CompressionConfig("sit", (Reduction(1, num_keep=8), Reduction(3, num_keep=4)))
    model = compress_backbone(backbone, config).train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = model.forward_tokens(images)
    teacher = {block: torch.zeros(2, 17, 48) for block in range(4)}
    context = LossContext(tokens=out, logits=backbone.readout(out), teacher=teacher)
    return model, context


def test_the_loss_is_twice_the_mean_over_blocks_of_the_expanded_tokens_error() -> None:
    model, context = trained()
    reducers = [r for r in model.reducers.values() if isinstance(r, SiT)]
    parts = [r.extra_loss(context) for r in reducers]
    assert all(part is not None for part in parts)
    errors = [
        F.mse_loss(r.reverse[str(block)](seen), torch.zeros(2, 16, 48))
        for r in reducers
        for block, seen in r.seen.items()
    ]
    assert len(errors) == 4  # blocks 0 (just slimmed) and 1, then 2 and 3
    total = sum(part for part in parts if part is not None)
    torch.testing.assert_close(total, 2.0 * torch.stack(errors).mean())


def test_every_parameter_learns_from_the_loss() -> None:
    model, context = trained()
    parts = [r.extra_loss(context) for r in model.reducers.values() if isinstance(r, SiT)]
    loss = context.logits.sum() + sum(part for part in parts if part is not None)
    loss.backward()
    idle = [name for name, p in model.reducers.named_parameters() if p.grad is None]
    assert not idle


def test_deployed_it_has_the_module_alone_and_gives_the_same_logits() -> None:
    model, _ = trained()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    model.eval()
    with torch.no_grad():
        before = model(images)
        model.deploy()
        assert torch.equal(model(images), before)
    cls = get_method("sit")
    for reducer in model.reducers.values():
        assert isinstance(reducer, SiT)
        own = sum(p.numel() for p in reducer.parameters())
        assert own == cls.site_params(reducer.site, {})
        assert not reducer.seen


def test_without_a_teacher_there_is_no_loss() -> None:
    model, context = trained()
    alone = dataclasses.replace(context, teacher={})
    assert all(r.extra_loss(alone) is None for r in model.reducers.values())  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cluster_layers.1.weight.3.bias", (1, "weight.3.bias")),
        ("cluster_layers.0.scale", (0, "scale")),
        ("blocks.0.norm1.weight", None),
    ],
)
def test_official_names_find_their_place(name: str, place: tuple[int, str] | None) -> None:
    assert SiT.official_name(name) == place
