"""The operator trace against the counter, hand-counted kernels, and hand-counted bytes."""

from collections import Counter

import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.counting.counter import count_macs
from autotok.counting.operators import OperatorClass
from autotok.predicting.trace import Trace, trace

CASES = [("none", ()), ("tome", (12, 8)), ("evit", (12, 9)), ("ltp", (9,)), ("pitome", (12, 9))]


def compressed(method: str, num_keep: tuple[int, ...], backbone: str = "tiny") -> CompressedViT:
    reductions = tuple(Reduction(layer, num_keep=k) for layer, k in enumerate(num_keep))
    config = CompressionConfig(method=method, reductions=reductions)
    return compress_backbone(load_structure(backbone), config)


@pytest.mark.parametrize(("method", "num_keep"), CASES)
@pytest.mark.parametrize("fused", [True, False])
def test_the_trace_and_the_counter_see_the_same_macs(
    method: str, num_keep: tuple[int, ...], fused: bool
) -> None:
    model = compressed(method, num_keep)
    found = trace(model, batch=2, fused_attention=fused)
    assert found.macs == 2 * count_macs(model)
    assert OperatorClass.OTHER not in {operator.kind for operator in found.operators}


def test_a_plain_block_is_ten_kernels() -> None:
    found = trace(tiny_backbone(num_blocks=4))
    # per block: 2 norms, qkv, attention, proj, fc1, gelu, fc2, 2 residual additions
    stem = ("convolution", "cat", "add")
    head = ("native_layer_norm", "addmm")
    assert found.launches == 4 * 10 + len(stem) + len(head)
    kinds = Counter(op.kind for op in found.operators if op.launches)
    assert kinds[OperatorClass.ATTENTION] == 4
    assert kinds[OperatorClass.MATMUL] == 4 * 4 + 1


def test_unfused_attention_takes_more_kernels_and_more_memory() -> None:
    model = load_structure("vit_small_patch16_224")
    fused, unfused = trace(model), trace(model, fused_attention=False)
    assert unfused.launches > fused.launches + 2 * 12
    assert unfused.peak_live_bytes > fused.peak_live_bytes
    assert unfused.macs == fused.macs


def test_views_cost_nothing_and_kernels_touch_their_bytes() -> None:
    found = trace(tiny_backbone())
    views = [op for op in found.operators if op.kind is OperatorClass.VIEW]
    assert views
    assert all(op.launches == op.bytes_read == op.bytes_written == op.macs == 0 for op in views)
    gelu = next(op for op in found.operators if op.name == "gelu")
    assert gelu.bytes_read == gelu.bytes_written == 17 * 192 * 4


def test_peak_memory_is_that_of_the_widest_mlp() -> None:
    model, batch = load_structure("vit_small_patch16_224"), 8
    tokens, image = batch * 197 * 4, batch * 3 * 224 * 224 * 4
    # images; the stream x and its norm, C wide; before and after gelu, 4 C wide
    expected = image + tokens * 384 * (2 + 8)
    peak = trace(compressed("none", (), "vit_small_patch16_224"), batch=batch).peak_live_bytes
    assert peak == expected
    assert trace(model, batch=batch).weight_bytes == 4 * model.facts.params


@pytest.mark.parametrize(("method", "num_keep"), CASES[1:])
def test_compression_never_needs_more_memory(method: str, num_keep: tuple[int, ...]) -> None:
    def peak(model: CompressedViT) -> int:
        return trace(model, batch=16).peak_live_bytes

    full = {"ltp": (98,)}.get(method, (176, 160))
    name = "vit_small_patch16_224"
    assert peak(compressed(method, full, name)) <= peak(compressed("none", (), name))


def test_half_precision_halves_bytes_but_not_macs() -> None:
    model = tiny_backbone()
    full, half = trace(model), trace(model, dtype=torch.float16)
    assert half.weight_bytes * 2 == full.weight_bytes
    assert half.peak_live_bytes * 2 == full.peak_live_bytes
    assert (half.macs, half.dtype) == (full.macs, "float16")
    assert next(model.parameters()).dtype == torch.float32


def test_tracing_twice_gives_the_same() -> None:
    model = compressed("tome", (12, 8))
    first: Trace = trace(model)
    assert trace(model) == first
