"""Calibration on the tiny backbone, and with made-up measurements whose answer is known."""

import numpy as np
import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.profiling import calibrate as module
from autotok.profiling.calibrate import (
    MB,
    Calibrated,
    Measured,
    Plan,
    calibrate,
    draw_candidates,
    fit_memory,
    measure_all,
)
from autotok.profiling.fitting import NAMES
from autotok.profiling.footprint import Footprint
from autotok.profiling.trace import trace

TINY = Plan(backbones=("tiny",), measurements=15, seconds=1.0, memory=False)
METHODS = ["evit", "ltp", "random", "tofu", "tome", "topk"]
TERMS = np.array([8.0 if name.endswith("calls") else 1e-4 for name in NAMES])


def made_up(wanted: list[module.Candidate], **_: object) -> list[Measured]:
    """Measurements of a machine that takes 8 us for each call, and little for what it does."""
    return [Measured(c, float(c.amounts @ TERMS) / 1e3, 0.0) for c in wanted]


@pytest.fixture(autouse=True)
def few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "drawable_methods", lambda facts: METHODS)


@pytest.fixture(scope="module")
def found() -> Calibrated:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_all", made_up)
        patch.setattr(module, "drawable_methods", lambda facts: METHODS)
        patch.setattr(module, "CANDIDATES", 2)
        return calibrate(Plan(("tiny",), measurements=20, memory=False))


def test_a_machine_that_follows_the_terms_is_predicted_well(found: Calibrated) -> None:
    assert (len(found.fitted), len(found.held_out)) == (16, 4)
    assert found.check.count == 4
    assert found.check.within_10_pct == 100.0
    assert (found.terms_us >= 0).all()


def test_what_judges_was_not_fitted(found: Calibrated) -> None:
    fitted = {row.candidate.config for row in found.fitted}
    assert CompressionConfig() in fitted
    assert not fitted & {row.candidate.config for row in found.held_out}


def test_progress_rises_and_says_what_is_measured() -> None:
    heard: list[tuple[float, str]] = []
    result = calibrate(TINY, on_step=lambda share, text: heard.append((share, text)))
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert heard[-1][1].startswith("measuring tiny")
    assert all(row.latency_ms > 0 for row in (*result.fitted, *result.held_out))
    assert result.held_out
    assert result.threads == torch.get_num_threads()
    assert result.memory is None


def test_candidates_begin_uncompressed_and_hold_every_method_in_turn() -> None:
    drawn = draw_candidates(TINY, 13)
    methods = [candidate.config.method for candidate in drawn]
    assert methods[0] == "none"
    assert sorted(methods[1:7]) == sorted(methods[7:]) == METHODS
    assert [c.config for c in draw_candidates(TINY, 13)] == [c.config for c in drawn]


def test_where_time_is_short_fewer_are_drawn() -> None:
    assert len(draw_candidates(TINY, 40, least=7, until=0.0)) == 7


def test_a_measurement_is_the_ratio_times_the_usual_reference() -> None:
    rows = measure_all(draw_candidates(TINY, 3), batch=1, seconds=0.0)
    assert rows[0].candidate.config == CompressionConfig()
    assert [row.candidate.backbone for row in rows] == ["tiny"] * 3
    assert all(row.spread >= 0 for row in rows)


def test_memory_is_a_base_and_a_share_of_what_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def footprint(name: str, config: object, *, batch: int, threads: int) -> Footprint:
        traced = trace(load_structure(name), batch=batch)
        return Footprint(0.0, 250 + (traced.weight_bytes + 1.3 * traced.peak_live_bytes) / MB)

    monkeypatch.setattr(module, "footprint", footprint)
    fit = fit_memory(("tiny", "vit_small_patch16_224"), batch=1, seconds=60.0)
    assert fit is not None
    assert fit.base_mb == pytest.approx(250, rel=1e-3)
    assert fit.overhead == pytest.approx(1.3, rel=1e-3)
    assert fit.points == 5
    assert fit.worst_pct < 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"measurements": 9}, "measurements is 9; give at least 10"),
        ({"backbones": ()}, "backbones is empty; name at least one"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**wrong)  # type: ignore[arg-type]
