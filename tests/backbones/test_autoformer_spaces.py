"""The published supernets and their subnets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotok.backbones.autoformer_spaces import (
    published_subnet,
    supernet_from_state_dict,
    supernet_spec,
)
from autotok.backbones.supernet import AutoFormerSupernet, SupernetView

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDEN / "autoformer_supernet.npz")


@pytest.fixture(scope="module")
def supernet(golden: Any) -> AutoFormerSupernet:
    state = {k[3:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("sd.")}
    return supernet_from_state_dict(state, origin="golden")


def test_every_shape_is_read_from_the_checkpoint(supernet: AutoFormerSupernet) -> None:
    spec = supernet.spec
    assert (spec.embed_dim, spec.depth, spec.heads, spec.mlp_ratio) == (192, 4, 3, 3.0)
    assert (spec.max_offset, spec.head_dim, spec.grid) == (5, 64, (8, 8))


def test_the_published_small_subnet_has_the_published_parameters() -> None:
    with torch.device("meta"):
        net = AutoFormerSupernet(supernet_spec("small"))
    assert SupernetView(net, published_subnet("small")).facts.params == 22_891_432
    sizes = {s: SupernetView(AutoFormerSupernet(supernet_spec(s)).to("meta"), published_subnet(s))
             for s in ("tiny",)}  # fmt: skip
    assert sizes["tiny"].facts.params == 5_867_944
