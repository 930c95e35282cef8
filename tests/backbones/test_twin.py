"""A twin shares everything but what it is given, and what watches the one watches the other."""

import torch
from torch import Tensor, nn

from autotok.backbones.tiny import tiny_backbone
from autotok.backbones.twin import twin_of


def images() -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_twin_shares_weights_and_hooks_and_has_its_own_where_it_says() -> None:
    backbone, fired = tiny_backbone(), []
    backbone.model.blocks[1].mlp.register_forward_hook(lambda *_: fired.append(1))
    other = nn.Parameter(torch.zeros_like(backbone.model.head.weight))
    twin = twin_of(backbone, lambda p: other if p is backbone.model.head.weight else p)
    assert twin.model.head.weight is other
    shared = dict(twin.named_parameters())
    own = {n for n, p in backbone.named_parameters() if shared[n] is not p}
    assert own == {"model.head.weight"}
    assert torch.equal(twin(images()), backbone.model.head.bias[None])
    assert fired == [1]
    assert not torch.equal(backbone(images()), twin(images()))
