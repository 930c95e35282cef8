"""The engine's loop: hooks in order, taps as declared, nothing patched, nothing left behind."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from autotok.backbones.autoformer import AutoFormer, SupernetSpec
from autotok.backbones.tiny import tiny_backbone, tiny_vit
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction, SubnetSpec
from autotok.errors import ConfigError
from autotok.methods import registry
from autotok.methods.base import Kind, Placement, TokenReducer
from autotok.methods.block_hooks import BlockHooks
from autotok.methods.primitives import select
from autotok.methods.registry import register
from autotok.tokens import Needs, Taps, Tokens

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def toy_methods() -> Iterator[None]:
    before = registry.METHODS.names()
    CALLS.clear()

    @register("first_ones")
    class FirstOnes(BlockHooks):
        """Keeps the first patches; records every call."""

        title, kind, needs = "toy", Kind.PRUNE, Needs.KEYS

        def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
            CALLS.append(f"reduce {self.site.layer}")
            assert taps.keys.shape[2] == tokens.x.shape[1]
            index = torch.arange(num_keep, device=tokens.x.device)
            return select(tokens, index.expand(tokens.x.shape[0], -1))

        def before_blocks(self, tokens: Tokens, taps: Taps) -> Tokens:
            CALLS.append("before_blocks")
            return tokens

        def after_block(self, layer: int, tokens: Tokens) -> Tokens:
            CALLS.append(f"after {layer}")
            return tokens

        def before_last(self, tokens: Tokens) -> Tokens:
            CALLS.append("before_last")
            return tokens

        def finish(self, tokens: Tokens) -> Tokens:
            CALLS.append("finish")
            return tokens

    @register("cheat")
    class Cheat(TokenReducer):
        """Reads a tap it did not declare."""

        title, kind = "toy", Kind.PRUNE

        def reduce(self, tokens: Tokens, taps: Taps, num_keep: int) -> Tokens:
            return select(tokens, taps.keys.mean((1, 3))[:, 1:].topk(num_keep).indices)

    for placement in (Placement.BEFORE, Placement.AFTER):
        cls = type("Placed", (FirstOnes,), {"placement": placement, "needs": Needs.NONE})
        cls.reduce = lambda self, tokens, taps, k: select(  # type: ignore[attr-defined]
            tokens, torch.arange(k).expand(tokens.x.shape[0], -1)
        )
        register(f"first_{placement.name.lower()}")(cls)
    yield
    for name in set(registry.METHODS.names()) - set(before):
        registry.METHODS.discard(name)


def first(method: str, **keep: int) -> CompressionConfig:
    return CompressionConfig(
        method, tuple(Reduction(int(k[1:]), num_keep=v) for k, v in keep.items())
    )


def sliced(counts: dict[int, int], images: Tensor, *, mid: bool) -> Tensor:
    """The same model, run by hand on simply sliced token tensors."""
    model = tiny_vit()
    x = model._pos_embed(model.patch_embed(images))
    for layer, block in enumerate(model.blocks):
        if not mid and layer in counts:
            x = x[:, : 1 + counts[layer]]
        x = x + block.attn(block.norm1(x))
        if mid and layer in counts:
            x = x[:, : 1 + counts[layer]]
        x = x + block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x))


@torch.no_grad()
def test_tokens_leave_exactly_where_the_placement_says() -> None:
    images = torch.randn(2, 3, 32, 32)
    mid = compress_backbone(tiny_backbone(), first("first_ones", l1=9, l2=5))
    torch.testing.assert_close(mid(images), sliced({1: 9, 2: 5}, images, mid=True))
    before = compress_backbone(tiny_backbone(), first("first_before", l1=9, l2=5))
    torch.testing.assert_close(before(images), sliced({1: 9, 2: 5}, images, mid=False))
    after = compress_backbone(tiny_backbone(), first("first_after", l0=9, l1=5))
    torch.testing.assert_close(after(images), sliced({1: 9, 2: 5}, images, mid=False))


@torch.no_grad()
def test_hooks_are_called_once_each_in_order() -> None:
    compress_backbone(tiny_backbone(), first("first_ones", l1=9))(torch.randn(1, 3, 32, 32))
    assert CALLS == [
        "before_blocks", "after 0", "reduce 1", "after 1", "after 2", "before_last", "after 3",
        "finish",
    ]  # fmt: skip


def test_a_tap_that_was_not_declared_is_absent() -> None:
    model = compress_backbone(tiny_backbone(), first("cheat", l1=9))
    with pytest.raises(AttributeError, match="'keys' was not declared"):
        model(torch.randn(1, 3, 32, 32))


@torch.no_grad()
def test_the_backbone_is_held_not_copied_and_left_as_it_was() -> None:
    backbone = tiny_backbone()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images)
    model = compress_backbone(backbone, first("first_ones", l1=9))
    model(images)
    assert model.backbone is backbone
    assert {k.split(".")[0] for k in model.state_dict()} == {"backbone"}
    torch.testing.assert_close(backbone(images), expected, atol=0, rtol=0)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])


@torch.no_grad()
def test_nothing_to_remove_is_the_uncompressed_model() -> None:
    backbone = tiny_backbone()
    images = torch.randn(2, 3, 32, 32)
    model = compress_backbone(backbone, first("first_ones", l1=16))
    torch.testing.assert_close(model(images), backbone(images), atol=0, rtol=0)
    assert "reduce 1" not in CALLS


@torch.no_grad()
def test_the_trace_says_which_patches_each_token_holds() -> None:
    model = compress_backbone(tiny_backbone(), first("first_ones", l1=9))
    tokens = model.forward_tokens(torch.randn(2, 3, 32, 32), trace=True)
    assert tokens.source is not None
    assert torch.equal(tokens.source, torch.eye(16, dtype=torch.bool)[:9].expand(2, -1, -1))


def test_naive_positions_mean_nothing_on_a_backbone_that_carries_none() -> None:
    config = CompressionConfig("first_ones", (Reduction(1, num_keep=9),), positions="naive")
    with pytest.raises(ConfigError, match="looks no positions up"):
        compress_backbone(tiny_backbone(), config)


@torch.no_grad()
def test_naive_positions_change_an_autoformer_only_after_something_was_removed() -> None:
    spec = SupernetSpec(64, 3, 1, 2.0, (64,), (3,), (1,), (2.0,), (3, 32, 32), 8, 10, max_offset=3)
    torch.manual_seed(0)
    backbone = AutoFormer(spec, SubnetSpec(64, (1,) * 3, (2.0,) * 3)).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.randn(2, 3, 32, 32)

    def run(positions: str, keep: int) -> Tensor:
        reductions = (Reduction(0, num_keep=keep),)
        return compress_backbone(
            backbone, CompressionConfig("first_ones", reductions, positions=positions)
        )(images)

    torch.testing.assert_close(run("naive", 16), run("carried", 16), atol=0, rtol=0)
    assert (run("naive", 9) - run("carried", 9)).abs().max() > 1e-3
