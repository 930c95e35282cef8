"""Subnets as views on shared weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotok.backbones.autoformer_spaces import (
    supernet_from_state_dict,
)
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView
from autotok.config import SubnetSpec
from autotok.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"

IMAGES = torch.from_numpy(np.load(GOLDEN / "inputs.npz")["x"])


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDEN / "autoformer_supernet.npz")


@pytest.fixture(scope="module")
def supernet(golden: Any) -> AutoFormerSupernet:
    state = {k[3:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("sd.")}
    return supernet_from_state_dict(state, origin="golden")


def test_gradients_reach_the_shared_weights_through_a_view(supernet: AutoFormerSupernet) -> None:
    view = SupernetView(supernet, SubnetSpec(128, (2, 2, 2), (2.0, 2.0, 2.0)))
    view(IMAGES).sum().backward()
    block = supernet.blocks[0]
    gradient = block.attn.qkv.weight.grad  # type: ignore[union-attr]
    assert gradient[: 3 * 128, :128].abs().sum() > 0
    assert gradient[:, 128:].abs().sum() == 0
    supernet.zero_grad(set_to_none=True)


def test_a_subnet_larger_than_its_supernet_is_refused(supernet: AutoFormerSupernet) -> None:
    with pytest.raises(ConfigError, match="holds at most 3"):
        SupernetView(supernet, SubnetSpec(128, (4,), (2.0,)))
