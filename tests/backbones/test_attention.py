"""Attention with relative positions, against its definition."""

import pytest
import torch

from autotok.backbones.relative_attention import RelativeTables, relative_attention
from autotok.tokens import Needs, Tokens, grid_coords


def dense_relative_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tables: RelativeTables, coords: torch.Tensor
) -> torch.Tensor:
    """The definition, with the (N, N, D) tensors built; one prefix token."""
    offset = tables.max_offset
    count = q.shape[2]
    rows, columns = (
        (coords[None, :, a] - coords[:, None, a]).clamp(-offset, offset) + offset + 1
        for a in (0, 1)
    )
    index = [torch.zeros(count, count, dtype=torch.int64) for _ in range(2)]
    index[0][1:, 1:], index[1][1:, 1:] = rows, columns
    r_k = tables.key_rows[index[0]] + tables.key_columns[index[1]]
    r_v = tables.value_rows[index[0]] + tables.value_columns[index[1]]
    logits = (q @ k.transpose(-2, -1) + torch.einsum("bhid,ijd->bhij", q, r_k)) * q.shape[
        -1
    ] ** -0.5
    weights = logits.softmax(-1)
    return weights @ v + torch.einsum("bhij,ijd->bhid", weights, r_v)


@pytest.mark.parametrize("raster", [True, False])
@pytest.mark.parametrize("grid", [(3, 5), (4, 4)])
def test_the_factorised_form_equals_the_dense_definition(
    grid: tuple[int, int], raster: bool
) -> None:
    torch.manual_seed(0)
    count, dim = grid[0] * grid[1], 6
    q, k, v = torch.randn(3, 2, 3, 1 + count, dim, dtype=torch.float64).unbind(0)
    tables = RelativeTables(*torch.randn(4, 2 * 2 + 2, dim, dtype=torch.float64).unbind(0))
    coords = grid_coords(grid)
    tokens = Tokens(
        torch.zeros(2, 1 + count, 8, dtype=torch.float64), 1, grid,
        raster=raster, coords=coords.expand(2, -1, -1),
    )  # fmt: skip
    out, taps = relative_attention(q, k, v, tables, tokens, Needs.ATTENTION)
    expected = dense_relative_attention(q, k, v, tables, coords[0])
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        taps.attention.sum(-1), torch.ones(2, 3, 1 + count, dtype=torch.float64)
    )
