"""A training written down."""

from pathlib import Path

import torch

from autotok.backbones.demo import DEMO_SPEC, load_demo_supernet
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.backbones.supernet_file import save_supernet


def test_half_precision_weights_round_trip(tmp_path: Path) -> None:
    net = AutoFormerSupernet(DEMO_SPEC)
    save_supernet(net, tmp_path / "w.safetensors")
    again = load_demo_supernet(tmp_path / "w.safetensors")
    for mine, theirs in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)
    assert (tmp_path / "w.safetensors").stat().st_size < 12e6
