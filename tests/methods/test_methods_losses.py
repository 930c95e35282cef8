"""Losses that methods bring along."""

import torch

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.methods.idlevit import IdleViT
from autotok.methods.learning import LossContext
from autotok.methods.losses import idlevit_cut, idlevit_features


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_cut_loss_is_shared_among_layers_and_the_last_adds_the_class_features() -> None:
    config = CompressionConfig("idlevit", (Reduction(1, num_keep=8), Reduction(2, num_keep=4)))
    model = compress_backbone(tiny_backbone(), config).train()
    tokens = model.forward_tokens(images())
    first, last = (r for r in model.reducers.children() if isinstance(r, IdleViT))
    assert (first.teacher_layers(), last.teacher_layers()) == (frozenset(), frozenset({3}))
    teacher = {3: torch.randn(tokens.x.shape, generator=torch.Generator().manual_seed(1))}
    assert first.cut is not None
    logits, mask = first.cut
    assert mask.sum(dim=1).tolist() == [9.0, 9.0]
    alone = first.extra_loss(LossContext(tokens, torch.zeros(2, 10)))
    assert alone is not None
    torch.testing.assert_close(alone, 10.0 * idlevit_cut(logits.unsqueeze(1), mask).sum())
    assert last.cut is not None
    both = last.extra_loss(LossContext(tokens, torch.zeros(2, 10), teacher=teacher))
    assert both is not None
    cut = 10.0 * idlevit_cut(last.cut[0].unsqueeze(1), last.cut[1]).sum()
    features = 500.0 * idlevit_features(tokens.x[:, 0], teacher[3][:, 0])
    torch.testing.assert_close(both, cut + features)
    both.backward()
    model.deploy()
    assert first.cut is None
