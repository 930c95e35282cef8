"""Estimates of frozen tokens against their equations, number by number."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from autotok.methods.approximators import (
    BlockApproximator,
    DepthwiseApproximator,
    approximator,
    approximator_macs,
    approximator_params,
    estimates,
    looks_around,
)
from autotok.testing import synthetic_facts

WIDTH, HEADS, GRID = 8, 2, (2, 3)
KINDS = ("mlp", "identity", "depthwise", "block")


def shuffled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


def patches() -> torch.Tensor:
    return torch.randn(1, GRID[0] * GRID[1], WIDTH, generator=torch.Generator().manual_seed(2))


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: values.detach().double().numpy() for name, values in module.named_parameters()}


def same(module: nn.Module, expected: np.ndarray) -> None:
    with torch.no_grad():
        np.testing.assert_allclose(module(patches())[0].numpy(), expected, rtol=0, atol=2e-5)


def test_a_depthwise_estimate_adds_what_the_eight_neighbours_and_itself_give() -> None:
    module = shuffled(DepthwiseApproximator(WIDTH, GRID))
    own, x = arrays(module), patches()[0].double().numpy()
    expected = x + own["conv.bias"]
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    r, c = row + down, column + right
                    if 0 <= r < GRID[0] and 0 <= c < GRID[1]:
                        tap = own["conv.weight"][:, 0, down + 1, right + 1]
                        expected[row * GRID[1] + column] += tap * x[r * GRID[1] + c]
    same(module, expected)


def test_a_block_estimate_is_a_pre_norm_block_on_the_patches() -> None:
    module = shuffled(BlockApproximator(WIDTH, HEADS))
    own, x = arrays(module), patches()[0].double().numpy()

    def linear(name: str, rows: np.ndarray) -> np.ndarray:
        return rows @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    def norm(name: str, rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
        return scaled * own[f"{name}.weight"] + own[f"{name}.bias"]

    q, k, v = np.split(linear("qkv", norm("norm1", x)), 3, axis=1)
    parts, width = [], WIDTH // HEADS
    for head in range(HEADS):
        of = slice(head * width, (head + 1) * width)
        weights = np.exp(q[:, of] @ k[:, of].T / math.sqrt(width))
        parts.append(weights / weights.sum(1, keepdims=True) @ v[:, of])
    x = x + linear("proj", np.concatenate(parts, axis=1))
    hidden = linear("fc1", norm("norm2", x))
    gelu = hidden * 0.5 * (1.0 + np.vectorize(math.erf)(hidden / math.sqrt(2.0)))
    same(module, x + linear("fc2", gelu))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_starts_with_tokens_as_they_were_and_says_what_it_holds(kind: str) -> None:
    facts = synthetic_facts(1)
    module = approximator(kind, facts, 2)
    x = torch.randn(2, facts.num_patches, facts.blocks[2].width)
    frozen = torch.tensor([[3, 0], [1, 2]])
    wanted = torch.stack([row[index] for row, index in zip(x, frozen, strict=True)])
    torch.testing.assert_close(estimates(module, x, frozen), wanted)
    held = sum(parameter.numel() for parameter in module.parameters())
    assert approximator_params(kind, facts) == held
    assert looks_around(module) is (kind in ("depthwise", "block"))


def test_published_shares_of_the_cost_are_met() -> None:
    """Table IV, DeiT-S: 2.52 % of 2.3 GFLOPs, none, 0.059 % of 2.3, 31.67 % of 2.4; two stages,
    the bottleneck's share counted on all tokens there."""
    everything = np.array([196])
    shares = [
        2 * int(approximator_macs(kind, 384, 196, everything)[0]) / (1e9 * total)
        for kind, total in zip(KINDS, (2.3, 2.3, 2.3, 2.4), strict=True)
    ]
    assert shares == pytest.approx([0.0252, 0.0, 0.00059, 0.3167], rel=0.02)
