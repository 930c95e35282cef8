"""A reduction without a model: random tokens, real attention taps, honest facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autotok.backbones.attention import attention
from autotok.config import Options
from autotok.errors import IncompatibleMethod
from autotok.facts import BackboneFacts, BlockFacts
from autotok.methods.base import Placement, Site, TokenReducer
from autotok.methods.block_hooks import BlockHooks
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.learning import Learning, LossContext
from autotok.methods.observing import Observing, observed_needs
from autotok.methods.registry import check_compatible
from autotok.methods.two_pass import TwoPass
from autotok.tokens import Extra, Needs, Taps, Tokens, each_changed, grid_coords

PREFIXES = (1, 2, 5, 0)
"""Numbers of prefix tokens: none last, which a method may refuse."""
BLOCKS, HEADS, HEAD_DIM, GRID = 6, 2, 8, (3, 5)
WIDTH = HEADS * HEAD_DIM


@dataclass(frozen=True)
class ReductionCase:
    """Everything one call of `reduce` takes."""

    reducer: TokenReducer
    tokens: Tokens
    taps: Taps
    num_keep: int
    prepared_macs: int = 0
    """Multiply-accumulates of `before_blocks`."""

    def run(self) -> Tokens:
        """The tokens after the reduction."""
        return self.reducer.reduce(self.tokens, self.taps, self.num_keep)


def require(holds: bool, method: type[TokenReducer], sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless it holds."""
    if not holds:
        raise AssertionError(f"method '{method.name}': {sentence}")


def reduces(method: type[TokenReducer]) -> bool:
    """Whether its mathematics is in `reduce`, which the checks of one reduction call."""
    return not issubclass(method, TwoPass)


def layers(method: type[TokenReducer]) -> tuple[int, ...]:
    """An early and a late layer, because methods may change with depth."""
    return (0,) if method.placement is Placement.BEFORE_BLOCKS else (1, BLOCKS - 1)


def keeps(method: type[TokenReducer], options: Options | None = None) -> tuple[int, ...]:
    """The fewest tokens the method can keep of the scene's, one less than all, and one between."""
    entering = GRID[0] * GRID[1]
    low, high = method.feasible(entering, method.resolve_options(options or {}))
    return tuple(sorted({low, (low + high) // 2, max(low, high - 1)}))


def synthetic_facts(num_prefix: int) -> BackboneFacts:
    """Facts of a small ViT whose first prefix token, if it has any, is a supervised class token."""
    block = BlockFacts(width=WIDTH, heads=HEADS, head_dim=HEAD_DIM, hidden=4 * WIDTH, params=0)
    return BackboneFacts(
        name=f"synthetic-{num_prefix}-prefix",
        family="synthetic",
        blocks=(block,) * BLOCKS,
        num_prefix=num_prefix,
        has_cls=num_prefix > 0,
        cls_is_supervised=num_prefix > 0,
        grid=GRID,
        pooling="cls" if num_prefix else "mean",
        carries_positions=False,
        has_position_table=True,
        image_shape=(3, 8 * GRID[0], 8 * GRID[1]),
        patch_size=(8, 8),
        num_classes=10,
        stem_macs=0,
        readout_macs=0,
        params=0,
    )


def reduction_case(
    method: type[TokenReducer],
    *,
    num_prefix: int = 1,
    num_keep: int | None = None,
    layer: int | None = None,
    options: Options | None = None,
    batch: int = 3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> ReductionCase:
    """A reduction on random tokens that carry coordinates, sources and extras.

    Raises:
        IncompatibleMethod: the method needs something this number of prefix tokens does not give.
    """
    facts = synthetic_facts(num_prefix)
    check_compatible(method, facts)
    given = method.resolve_options(options or {})
    needs = method.resolve_needs(facts, given)
    keep = keeps(method, given)[0] if num_keep is None else num_keep
    place = layers(method)[0] if layer is None else layer
    tokens = random_tokens(facts, batch=batch, seed=seed).to(dtype, device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reducer = method(Site(place, facts.num_patches, keep, facts, 0, (place,)), given)
    reducer.needs = needs
    if isinstance(reducer, ImageScoring):
        reducer.network = stand_in()
    reducer.to(device, dtype).eval()
    with FlopCounterMode(display=False) as counter:
        start = tokens.value
        if isinstance(reducer, BlockHooks):
            start = reducer.before_blocks(start, _embedding(tokens, needs))
    for block, heard in observed_needs(method, (place,), facts, given).items():
        if block < place:
            assert isinstance(reducer, Observing)
            start = reducer.observe(block, start, _attended(tokens, heard))
    taps = _taps(method, tokens, needs)
    return ReductionCase(reducer, start, taps, keep, counter.get_total_flops() // 2)


def reduction_cases(
    method: type[TokenReducer],
    *,
    options: Options | None = None,
    prefixes: tuple[int, ...] = PREFIXES,
    batch: int = 3,
) -> Iterator[ReductionCase]:
    """Cases over prefix counts, layers and amounts, as far as the method allows them."""
    for num_prefix in prefixes:
        for layer in layers(method):
            for keep in keeps(method, options):
                try:
                    yield reduction_case(
                        method,
                        num_prefix=num_prefix,
                        layer=layer,
                        num_keep=keep,
                        options=options,
                        batch=batch,
                    )
                except IncompatibleMethod:
                    continue


def stand_in() -> nn.Module:
    """What takes the place of an auxiliary network, whose weights tests do not have."""
    return nn.AvgPool2d(4)


def loss_context(reducer: Learning, tokens: Tokens, *, seed: int = 0) -> LossContext:
    """What a method's own loss may look at, after a reduction that left `tokens`; random logits."""
    generator = torch.Generator().manual_seed(seed)
    facts, batch = reducer.site.facts, tokens.x.shape[0]
    full = (batch, facts.num_prefix + facts.num_patches, tokens.x.shape[2])
    return LossContext(
        tokens=tokens,
        logits=torch.randn(batch, facts.num_classes, generator=generator),
        labels=torch.arange(batch) % facts.num_classes,
        teacher_logits=torch.randn(batch, facts.num_classes, generator=generator),
        teacher={
            layer: torch.randn(full, generator=generator) for layer in reducer.teacher_layers()
        },
    )


@dataclass(frozen=True)
class RandomTokens:
    """Tokens and the arrays their taps come from."""

    value: Tokens
    qkv: Tensor  # (3, B, H, N, D)
    embedding: Tensor  # (B, n, C)
    table: Tensor  # (n, C)
    image: Tensor

    def to(self, dtype: torch.dtype, device: str) -> RandomTokens:
        """The same on another device, in another precision."""

        def move(values: Tensor) -> Tensor:
            return values.to(device, dtype if values.is_floating_point() else values.dtype)

        rest = (move(a) for a in (self.qkv, self.embedding, self.table, self.image))
        return RandomTokens(each_changed(self.value, lambda _, values: move(values)), *rest)


def random_tokens(facts: BackboneFacts, *, batch: int, seed: int) -> RandomTokens:
    """Tokens whose extras name them: `tag` is the patch's number, `pair` both numbers of a pair."""
    generator = torch.Generator().manual_seed(seed)
    count, prefix = facts.num_patches, facts.num_prefix

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    number = torch.arange(count)
    pair = number[:, None] * 1000 + number
    value = Tokens(
        normal(batch, prefix + count, WIDTH),
        prefix,
        facts.grid,
        coords=grid_coords(facts.grid).expand(batch, -1, -1),
        source=torch.eye(count, dtype=torch.bool).expand(batch, -1, -1),
        extras={
            "tag": Extra(number.expand(batch, -1)),
            "pair": Extra(pair.expand(batch, -1, -1), (1, 2)),
        },
    )
    return RandomTokens(
        value,
        normal(3, batch, HEADS, prefix + count, HEAD_DIM),
        normal(batch, count, WIDTH),
        normal(count, WIDTH),
        normal(batch, *facts.image_shape),
    )


def _embedding(tokens: RandomTokens, needs: Needs) -> Taps:
    values: dict[str, Tensor] = {}
    if needs & Needs.EMBEDDING:
        values |= {"patch_embedding": tokens.embedding, "position_table": tokens.table}
    if needs & Needs.IMAGE:
        values["image"] = tokens.image
    return Taps(values)


def _taps(method: type[TokenReducer], tokens: RandomTokens, needs: Needs) -> Taps:
    if method.placement is Placement.BEFORE_BLOCKS:
        return _embedding(tokens, needs)
    taps = _attended(tokens, needs)
    if method.placement is not Placement.BEFORE:
        return taps
    early = ("normed", "queries", "cls_query", "keys", "values")
    return Taps({name: getattr(taps, name) for name in taps.names() if name in early})


def _attended(tokens: RandomTokens, needs: Needs) -> Taps:
    q, k, v = tokens.qkv.unbind(0)
    taps = attention(q, k, v, tokens.value, needs)[1]
    return taps.having("normed", tokens.value.x) if needs & Needs.NORMED else taps
