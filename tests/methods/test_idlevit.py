"""IdleViT: chosen tokens go through the block, the others wait for one block."""

import numpy as np
import torch
from hand import reducer

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.methods.idlevit import IdleViT
from autotok.tokens import Taps, Tokens, grid_coords

QUERY = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # (1, 2 heads, 1, 2)


def four() -> Tokens:
    x = torch.arange(-1.0, 4.0).reshape(1, 5, 1)
    return Tokens(x, 1, (2, 2), coords=grid_coords((2, 2)))


def keys(*per_head: list[float]) -> torch.Tensor:
    """(1, 2, 5, 2): what each head's query finds at the four patches."""
    full = torch.zeros(1, 2, 5, 2)
    for head, found in enumerate(per_head):
        full[0, head, 1:, head] = torch.tensor(found)
    return full


def made(keep: int = 2) -> IdleViT:
    new = reducer("idlevit", entering=4, keep=keep, layer=1)
    assert isinstance(new, IdleViT)
    return new


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_raw_products_averaged_over_heads_choose() -> None:
    # means 2, 1.5, 3.5, -1: a softmax per head would have ranked the first patch highest
    found = keys([5.0, 1.0, 4.0, 0.0], [-1.0, 2.0, 3.0, -2.0])
    out = made().reduce(four(), Taps({"cls_query": QUERY, "keys": found}), 2)
    assert out.patches.flatten().tolist() == [2.0, 0.0]


def test_idle_tokens_return_behind_the_block_in_their_places() -> None:
    found = keys([5.0, 1.0, 4.0, 0.0], [-1.0, 2.0, 3.0, -2.0])
    one = made()
    out = one.reduce(four(), Taps({"cls_query": QUERY, "keys": found}), 2)
    worked = out.with_x(out.x + 10.0)
    assert one.after_block(0, worked).num_patches == 2
    back = one.after_block(1, worked)
    assert back.x.flatten().tolist() == [9.0, 10.0, 1.0, 12.0, 3.0]
    assert back.raster


def test_a_later_layer_may_keep_more_than_an_earlier_one() -> None:
    reductions = (Reduction(1, num_keep=4), Reduction(2, num_keep=12))
    model = compress_backbone(tiny_backbone(), CompressionConfig("idlevit", reductions))
    watch = TapRequest(counting=True)
    with torch.no_grad():
        tokens = model.forward_tokens(images(), watch=watch)
    assert [watch.counts[layer].attention[0].item() for layer in range(4)] == [16, 4, 12, 16]
    assert tokens.num_patches == 16


def test_an_idle_token_is_unchanged_by_the_block() -> None:
    config = CompressionConfig("idlevit", (Reduction(2, num_keep=5),))
    model = compress_backbone(tiny_backbone(), config)
    watch = TapRequest(after=frozenset({1, 2}))
    with torch.no_grad():
        model.forward_tokens(images(), watch=watch)
    before, after = watch.tokens[1].patches, watch.tokens[2].patches
    assert (before == after).all(dim=-1).sum(dim=1).tolist() == [11, 11]


def test_training_computes_what_inference_computes() -> None:
    config = CompressionConfig("idlevit", (Reduction(1, num_keep=8), Reduction(2, num_keep=4)))
    model = compress_backbone(tiny_backbone(), config)
    with torch.no_grad():
        torch.testing.assert_close(model.train()(images()), model.eval()(images()))


def test_the_cost_includes_the_norm_and_keys_that_choose() -> None:
    one = made()
    counts = np.array([4])
    assert IdleViT.overhead_macs(one.site.facts, 1, counts, np.array([2]), one.values) == [4 * 16]
