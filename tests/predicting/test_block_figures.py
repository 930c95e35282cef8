"""A trace taken apart by blocks."""

import numpy as np
import pytest

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.exit_head_costs import exit_head_macs
from autotok.counting.macs import cost
from autotok.exits import ExitPolicy
from autotok.predicting.block_figures import model_figures
from autotok.predicting.predict import bare_prediction, predict
from autotok.predicting.target import load_target
from autotok.predicting.trace import trace

MODEL = compress_backbone(
    tiny_backbone(), CompressionConfig("tome", (Reduction(1, num_keep=10),))
).eval()


@pytest.mark.parametrize("name", ["jetson-nx", "local"])
def test_times_of_blocks_add_up_to_the_prediction(name: str) -> None:
    target = load_target(name)
    found = model_figures(MODEL, target)
    whole = bare_prediction(
        trace(MODEL, fused_attention=target.setting().fused_attention), target, "eager"
    )
    times = [block.predicted_ms for block in found.blocks]
    fixed = target.setting().fixed_ms.value
    assert sum(t for t in times if t is not None) + fixed == pytest.approx(whole.latency_ms)
    assert sum(found.by_class.values()) == pytest.approx(whole.device_ms)


def test_cost_and_peak_are_those_of_the_whole() -> None:
    traced, found = trace(MODEL, batch=2), model_figures(MODEL, batch=2)
    assert sum(block.macs for block in found.blocks) == traced.macs
    assert found.peak.live_mb == pytest.approx(traced.peak_live_bytes / 1e6)
    assert [block.block for block in found.blocks] == [-1, 0, 1, 2, 3, 4]
    assert all(block.predicted_ms is None for block in found.blocks)


def test_heads_of_exits_are_in_the_figures_of_the_blocks_that_they_stand_behind() -> None:
    policy = ExitPolicy((0, 2), ("vit", "linear"))
    plain = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    model = compress_backbone(tiny_backbone(), CompressionConfig(exits=policy)).eval()
    facts, before, after = plain.backbone.facts, model_figures(plain), model_figures(model)
    rows = np.array([facts.num_patches])
    added = [b.macs - a.macs for a, b in zip(before.blocks, after.blocks, strict=True)]
    vit, linear = exit_head_macs("vit", facts, 0, rows)[0], exit_head_macs("linear", facts, 2, rows)
    assert added == [0, vit[0], 0, linear[0][0], 0, 0]
    assert sum(block.macs for block in after.blocks) == cost(facts, model.config).macs
    target = load_target("jetson-nx")
    alone, whole = predict(plain, target), predict(model, target)
    assert whole.host_ms > alone.host_ms
    assert whole.latency_ms > alone.latency_ms


def test_a_reduction_makes_the_blocks_behind_it_cheaper() -> None:
    plain = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    before, after = model_figures(plain).blocks, model_figures(MODEL).blocks
    assert after[1].macs == before[1].macs
    assert after[3].macs < before[3].macs
