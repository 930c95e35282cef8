"""What a forward keeps for whoever looks on: tokens, taps, counts and moments, by block."""

import dataclasses

import torch

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.tap_request import TapRequest, live_counts
from autotok.config import CompressionConfig, Reduction
from autotok.tokens import Needs

IMAGES = torch.zeros(2, 3, 32, 32)
CONFIG = CompressionConfig("topk", (Reduction(1, num_keep=9),))


@torch.no_grad()
def test_blocks_are_told_in_order_and_counted_before_and_after_a_reduction() -> None:
    model, told = compress_backbone(tiny_backbone(), CONFIG).eval(), []
    watch = TapRequest(counting=True, mapping=True, on_block=told.append)
    model.forward_tokens(IMAGES, watch=watch)
    depth, total = model.backbone.facts.num_blocks, model.backbone.facts.num_patches
    assert told == list(range(depth + 1))
    assert watch.counts[0].mlp.tolist() == [total, total]
    assert watch.counts[1].entering.tolist() == [total, total]
    assert watch.counts[1].mlp.tolist() == watch.counts[depth].entering.tolist() == [9, 9]
    assert [m.layer for m in watch.moments] == sorted(m.layer for m in watch.moments)
    assert watch.moments[-1].part == "read-out"


@torch.no_grad()
def test_only_what_is_asked_for_is_kept() -> None:
    model = compress_backbone(tiny_backbone(), CONFIG).eval()
    watch = TapRequest(after=frozenset({0}), inside={1: Needs.KEYS})
    tokens = model.forward_tokens(IMAGES, watch=watch)
    assert set(watch.tokens) == {0}
    assert set(watch.taps) == {1}
    assert watch.taps[1][1].keys is not None
    assert not watch.counts
    assert not watch.moments
    live = torch.arange(9).expand(2, -1) < torch.tensor([[9], [4]])
    assert live_counts(tokens).tolist() == [9, 9]
    assert live_counts(dataclasses.replace(tokens, live=live)).tolist() == [9, 4]
