"""Models without weights."""

import torch

from autotok.backbones.tiny import tiny_backbone
from autotok.counting.meta_model import meta_copy


def test_a_meta_copy_holds_no_weights_but_all_shapes() -> None:
    model = tiny_backbone()
    twin = meta_copy(model, dtype=torch.float16)
    assert all(t.is_meta for t in [*twin.parameters(), *twin.buffers()])
    assert {p.dtype for p in twin.parameters()} == {torch.float16}
    assert [p.shape for p in twin.parameters()] == [p.shape for p in model.parameters()]


def test_what_is_put_into_a_copy_is_not_in_the_model() -> None:
    model = tiny_backbone()
    twin = meta_copy(model)
    twin.register_forward_hook(lambda *_: None)
    twin.register_buffer("more", torch.zeros(1))
    assert not model._forward_hooks
    assert "more" not in dict(model.named_buffers())
