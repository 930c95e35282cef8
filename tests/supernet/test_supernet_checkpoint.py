"""A training written down."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_supernet import tiny_recipe

from autotok.backbones.demo import DEMO_SPEC, load_demo_supernet
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.backbones.supernet_file import save_supernet
from autotok.errors import CheckpointError
from autotok.supernet.checkpoint import fresh_state, restore_state, save_state
from autotok.supernet.recipe_file import load_recipe


def test_half_precision_weights_round_trip(tmp_path: Path) -> None:
    net = AutoFormerSupernet(DEMO_SPEC)
    save_supernet(net, tmp_path / "w.safetensors")
    again = load_demo_supernet(tmp_path / "w.safetensors")
    for mine, theirs in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)
    assert (tmp_path / "w.safetensors").stat().st_size < 12e6


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: data["supernet"],
        lambda data: [data],
        lambda data: data | {"step": None},
        lambda data: data | {"ema": {}},
        lambda data: data | {"optimizer": 3},
        lambda data: data | {"recipe": "x"},
    ],
)
def test_a_torch_file_of_something_else_is_no_checkpoint(tmp_path: Path, broken: Any) -> None:
    recipe, path = load_recipe(tiny_recipe(tmp_path)), tmp_path / "checkpoint.pt"
    state = fresh_state(recipe)
    save_state(state, recipe, path)
    restore_state(state, recipe, path)
    torch.save(broken(torch.load(path, weights_only=True)), path)
    with pytest.raises(CheckpointError, match=r"training cannot resume from '.*checkpoint\.pt'"):
        restore_state(state, recipe, path)
