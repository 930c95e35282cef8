"""Times of blocks, one for each, of every model; shares of classes of operator."""

import torch

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.devices.block_times import block_times, operator_shares


def test_every_block_of_every_model_has_a_time() -> None:
    backbone = tiny_backbone()
    models = [
        compress_backbone(backbone, CompressionConfig(method, reductions)).eval()
        for method, reductions in (("none", ()), ("topk", (Reduction(1, num_keep=4),)))
    ]
    found = block_times(models, torch.zeros(1, 3, 32, 32), patience_s=0.0)
    assert [len(times) for times in found] == [6, 6]
    assert all(ms > 0 for times in found for ms in times)


def test_shares_of_operators_add_up_and_know_what_runs() -> None:
    config = CompressionConfig("tome", (Reduction(1, num_keep=10),))
    model = compress_backbone(tiny_backbone(), config).eval()
    found = operator_shares(model, torch.zeros(1, 3, 32, 32))
    assert abs(sum(found.values()) - 100) < 1e-6
    assert {"matmul", "conv", "attention", "gather-scatter", "elementwise"} <= found.keys()
    assert list(found.values()) == sorted(found.values(), reverse=True)
