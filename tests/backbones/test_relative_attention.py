"""AutoFormer's attention: held to its definition, however many queries are done at a time."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autotok.backbones import relative_attention as module
from autotok.backbones.relative_attention import RelativeTables, relative_attention
from autotok.tokens import AttentionRule, Needs, Tokens, grid_coords, naive_coords

MAP = Needs.ATTENTION | Needs.COLUMN_MEANS | Needs.CLS_ATTENTION
GRID, HEADS, DIM, OFFSET = (4, 6), 3, 6, 2
Facts = dict[str, Tensor | AttentionRule]


def dense(
    q: Tensor, k: Tensor, v: Tensor, tables: RelativeTables, tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """Outputs and map by the definition, with the (B, N, N, D) tensors built."""
    assert tokens.coords is not None
    place, offset, prefix = tokens.coords.transpose(1, 2), tables.max_offset, tokens.num_prefix
    index = (place[:, :, None, :] - place[:, :, :, None]).clamp(-offset, offset) + offset + 1
    rows, columns = F.pad(index, (prefix, 0, prefix, 0)).unbind(1)
    r_k = tables.key_rows[rows] + tables.key_columns[columns]
    r_v = tables.value_rows[rows] + tables.value_columns[columns]
    logits = q @ k.transpose(-2, -1) + torch.einsum("bhid,bijd->bhij", q, r_k)
    weights = (logits * q.shape[-1] ** -0.5).exp()
    for factor in (tokens.size, tokens.live, tokens.mask):
        if factor is not None:
            seen = F.pad(factor.to(q.dtype), (prefix, 0), value=1.0)[:, None, None]
            if factor is tokens.mask:  # what is dropped still sees itself
                eye = torch.eye(q.shape[2], dtype=q.dtype)
                seen = seen * (1 - eye) + eye
            weights = weights * seen
    weights = weights / weights.sum(-1, keepdim=True)
    return weights @ v + torch.einsum("bhij,bijd->bhid", weights, r_v), weights


def drawn(
    count: int, *, batch: int = 3, prefix: int = 1, **facts: Tensor | AttentionRule
) -> tuple[tuple[Tensor, Tensor, Tensor], RelativeTables, Tokens]:
    """Random queries, keys and values of tokens at random places, others in every image."""
    torch.manual_seed(0)
    shape = (3, batch, HEADS, prefix + count, DIM)
    tables = torch.randn(4, 2 * OFFSET + 2, DIM, dtype=torch.float64)
    cells = grid_coords(GRID)[0]
    coords = torch.stack([cells[torch.randperm(len(cells))[:count]] for _ in range(batch)])
    x = torch.zeros(batch, prefix + count, 8, dtype=torch.float64)
    tokens = Tokens(x, prefix, GRID, raster=False, coords=coords)
    q, k, v = torch.randn(shape, dtype=torch.float64)
    return (q, k, v), RelativeTables(*tables), dataclasses.replace(tokens, **facts)  # type: ignore[arg-type]


def check(
    qkv: tuple[Tensor, Tensor, Tensor], tables: RelativeTables, tokens: Tokens, atol: float = 1e-12
) -> None:
    """Outputs and taps are those of the definition, with gradients and without."""
    expected, weights = dense(*qkv, tables, tokens)
    rows = torch.ones(tokens.x.shape[:2], dtype=torch.float64)
    if tokens.live is not None:
        rows[:, tokens.num_prefix :] = tokens.live.to(rows.dtype)
    means = (weights * rows[:, None, :, None]).sum(2) / rows.sum(1)[:, None, None]
    for learning in (False, True):
        own = (qkv[0].clone().requires_grad_(learning), *qkv[1:])
        out, taps = relative_attention(*own, tables, tokens, MAP)
        torch.testing.assert_close(out, expected, atol=atol, rtol=0)
        torch.testing.assert_close(taps.attention, weights, atol=atol, rtol=0)
        torch.testing.assert_close(taps.column_means, means, atol=atol, rtol=0)
        torch.testing.assert_close(taps.cls_attention, weights[:, :, 0], atol=atol, rtol=0)
        alone, none = relative_attention(*own, tables, tokens, Needs.NONE)
        torch.testing.assert_close(alone, expected, atol=atol, rtol=0)
        assert none.names() == ()


@pytest.fixture(params=[1, 200, 2**18], ids=lambda room: f"{room} entries")
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many entries of the map are made at once: one query's, a few, all images'."""
    monkeypatch.setattr(module, "CACHED", request.param)
    monkeypatch.setattr(module, "TILE", 4)


FACTS: dict[str, Callable[[], Facts]] = {
    "plain": dict,
    "sizes": lambda: {"size": 1.0 + torch.arange(30, dtype=torch.float64).view(3, 10) / 7},
    "padding": lambda: {"live": torch.arange(10) < torch.tensor([[10], [4], [7]])},
}


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("facts", FACTS)
def test_tokens_anywhere_see_each_other_as_the_definition_says(facts: str) -> None:
    # the log of a size is taken in float32
    check(*drawn(10, **FACTS[facts]()), atol=1e-6 if facts == "sizes" else 1e-12)


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_any_number_of_prefix_tokens_is_without_a_place(prefix: int) -> None:
    check(*drawn(10, prefix=prefix))


@pytest.mark.usefixtures("room")
def test_two_tokens_may_be_at_one_place() -> None:
    qkv, tables, tokens = drawn(10)
    assert tokens.coords is not None
    tokens.coords[:, 1] = tokens.coords[:, 0]
    check(qkv, tables, tokens)


@pytest.mark.usefixtures("room")
def test_a_full_grid_needs_no_coordinates() -> None:
    qkv, tables, tokens = drawn(24)
    tokens = dataclasses.replace(tokens, coords=grid_coords(GRID).expand(3, -1, -1))
    expected = dense(*qkv, tables, tokens)[0]
    out = relative_attention(
        *qkv, tables, dataclasses.replace(tokens, raster=True, coords=None), Needs.NONE
    )[0]
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("count", [15, 23])
def test_naive_positions_may_end_below_the_grid(count: int) -> None:
    qkv, tables, tokens = drawn(count)
    naive = naive_coords(count).expand(3, -1, -1)
    assert naive.max() >= GRID[0]
    check(qkv, tables, dataclasses.replace(tokens, coords=naive))


def test_masked_training_takes_the_policy_into_the_softmax() -> None:
    mask = (torch.arange(30).view(3, 10) % 3 > 0).double()
    check(*drawn(10, mask=mask, rule=AttentionRule(epsilon=0.0)))


def test_a_sparse_map_keeps_its_largest_entries_as_they_are() -> None:
    qkv, tables, tokens = drawn(10, rule=AttentionRule(sparsity=0.25))
    kept = relative_attention(*qkv, tables, tokens, MAP)[1].attention
    _, weights = dense(*qkv, tables, tokens)
    limit = weights.flatten(2).sort(dim=-1).values[..., int(0.75 * 121) - 1, None, None]
    torch.testing.assert_close(kept, torch.where(weights < limit, 0.0, weights))


@pytest.mark.usefixtures("room")
def test_half_precision_adds_attention_up_in_float32() -> None:
    qkv, tables, tokens = drawn(24)
    short = [x.to(torch.bfloat16) for x in qkv]
    few = RelativeTables(*(x.to(torch.bfloat16) for x in dataclasses.astuple(tables)))
    out, taps = relative_attention(*short, few, tokens, MAP)  # type: ignore[call-arg]
    exact = RelativeTables(*(x.double() for x in dataclasses.astuple(few)))
    expected = dense(*(x.double() for x in short), exact, tokens)[0]  # type: ignore[arg-type]
    assert out.dtype == taps.attention.dtype == torch.bfloat16
    spread = expected.abs().max().item()
    torch.testing.assert_close(out.double(), expected, atol=2**-6 * spread, rtol=0)


@torch.no_grad()
def test_sizes_that_are_learned_weigh_once_where_no_gradient_is_wanted() -> None:
    size = 1.0 + torch.arange(30, dtype=torch.float64).view(3, 10) / 7
    qkv, tables, tokens = drawn(10, size=size.requires_grad_())
    out = relative_attention(*qkv, tables, tokens, Needs.NONE)[0]
    torch.testing.assert_close(out, dense(*qkv, tables, tokens)[0], atol=1e-12, rtol=0)


def test_an_exported_batch_may_be_of_any_size() -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, coords: Tensor) -> Tensor:
            x = q.new_zeros(q.shape[0], q.shape[2], 8)
            tokens = Tokens(x, 1, GRID, raster=False, coords=coords)
            return relative_attention(q, k, v, tables, tokens, Needs.NONE)[0]

    qkv, tables, tokens = drawn(10)
    assert tokens.coords is not None
    given, batch = (*qkv, tokens.coords), torch.export.Dim("batch")
    program = torch.export.export(Attention(), given, dynamic_shapes=({0: batch},) * 4)
    two = [x[:2] for x in given]
    expected = relative_attention(*qkv, tables, tokens, Needs.NONE)[0][:2]
    torch.testing.assert_close(program.module()(*two), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_in_files_blocks_of_the_same_positions_look_their_lines_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    qkv, tables, tokens = drawn(10)
    expected = relative_attention(*qkv, tables, tokens, Needs.NONE)[0]
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    moved = dataclasses.replace(tokens, x=tokens.x + 1.0)
    lines = [module._entries_and_features(t, OFFSET, torch.float64)[0] for t in (tokens, moved)]
    assert lines[0] is lines[1]
    assert len(module._SHARED) == 1
    for block in (tokens, moved):
        out = relative_attention(*qkv, tables, block, Needs.NONE)[0]
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)  # sums are in float32 there
    del tokens, moved, block
    assert len(module._SHARED) == 0


@pytest.mark.parametrize("padded", [False, True])
def test_half_precision_gives_what_double_gives_within_its_bits(padded: bool) -> None:
    torch.manual_seed(3)
    coords = torch.stack([torch.randperm(30)[:20].sort().values for _ in range(2)])
    coords = torch.stack([coords // 6, coords % 6], dim=-1)
    live = torch.arange(20).expand(2, -1) < torch.tensor([[20], [13]]) if padded else None
    tokens = Tokens(
        torch.zeros(2, 21, 8),
        1,
        (5, 6),
        raster=False,
        coords=coords,
        size=torch.randint(1, 9, (2, 20)).float(),
        live=live,
    )
    needs = Needs.ATTENTION | Needs.COLUMN_MEANS | Needs.CLS_ATTENTION
    numbers = [torch.randn(2, 2, 21, 16).bfloat16() for _ in range(3)]
    tables = [torch.randn(6, 16).bfloat16() for _ in range(4)]
    wide = RelativeTables(*(table.double() for table in tables))
    right, taps = relative_attention(*(x.double() for x in numbers), wide, tokens, needs)
    out, low = relative_attention(*numbers, RelativeTables(*tables), tokens, needs)
    rows = slice(None) if live is None else slice(14)
    # logits of some tens carry 8 bits, so weights are off by some hundredths
    torch.testing.assert_close(out[:, :, rows].double(), right[:, :, rows], atol=0.15, rtol=0.05)
    for name in ("attention", "cls_attention", "column_means"):
        found, expected = getattr(low, name), getattr(taps, name)
        torch.testing.assert_close(found.double(), expected, atol=0.05, rtol=0.05)
