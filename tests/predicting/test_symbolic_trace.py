"""Programs predict many schedules at once what single traces predict of each."""

import numpy as np
import pytest

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.config import CompressionConfig, Reduction
from autotok.predicting.bulk import BulkPredictor
from autotok.predicting.random_configs import draw_counts
from autotok.predicting.target import load_target

FACTS = load_structure("vit_tiny_patch16_224").facts


def drawn(method: str, layers: tuple[int, ...], count: int) -> list[CompressionConfig]:
    shape = CompressionConfig(method, tuple(Reduction(layer, num_keep=1) for layer in layers))
    rng = np.random.default_rng(0)
    return [draw_counts(FACTS, shape, rng) for _ in range(count)]


def differences(predictor: BulkPredictor, configs: list[CompressionConfig], some: int) -> float:
    found = predictor(configs)
    assert np.isfinite(found.latency_ms).all()
    worst = 0.0
    for index in range(0, len(configs), max(len(configs) // some, 1)):
        latency, memory = predictor.single(configs[index])
        worst = max(worst, abs(found.latency_ms[index] / latency - 1))
        worst = max(worst, abs(found.peak_memory_mb[index] / memory - 1))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("method", ["topk", "tome", "evit", "ltp", "patchmerger", "dpcknn"])
@pytest.mark.parametrize("target", ["rtx3090", "local"])
def test_a_program_gives_what_single_traces_give(method: str, target: str) -> None:
    layers = (0,) if method == "ltp" else (6,)
    predictor = BulkPredictor(load_structure("vit_tiny_patch16_224"), load_target(target), batch=2)
    configs = [c for c in drawn(method, layers, 20) if c.reductions[0].num_keep < 190]
    assert predictor(configs).by_trace < len(configs)
    assert differences(predictor, configs, 4) < 1e-9


@pytest.mark.slow
def test_several_layers_are_predicted_alike() -> None:
    predictor = BulkPredictor(load_structure("vit_tiny_patch16_224"), load_target("rtx3090"))
    assert differences(predictor, drawn("topk", (2, 5, 8), 30), 5) < 1e-9


def test_few_configurations_are_traced_one_by_one() -> None:
    predictor = BulkPredictor(load_structure("tiny"), load_target("local"))
    found = predictor([CompressionConfig(), CompressionConfig()])
    assert found.by_trace == 2
    assert found.latency_ms[0] == found.latency_ms[1]
    assert (found.latency_ms[0], found.peak_memory_mb[0]) == predictor.single(CompressionConfig())
