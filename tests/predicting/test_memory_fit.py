"""Memory as a base and a share of what lives."""

import pytest

from autotok.backbones.loading import load_structure
from autotok.predicting import memory_fit
from autotok.predicting.memory_fit import MB, fit_memory
from autotok.predicting.trace import trace


def test_memory_is_a_base_and_a_share_of_what_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def footprint(name: str, config: object, *, batch: int, threads: int) -> float:
        found = trace(load_structure(name), batch=batch)
        return 250 + (found.weight_bytes + 1.3 * found.peak_live_bytes) / MB

    monkeypatch.setattr(memory_fit, "footprint", footprint)
    fit = fit_memory(("tiny", "vit_small_patch16_224"), batch=1, seconds=60.0)
    assert fit.base_mb == pytest.approx(250, rel=1e-3)
    assert fit.overhead == pytest.approx(1.3, rel=1e-3)
    assert fit.points == 5
    assert fit.worst_pct < 0.1
