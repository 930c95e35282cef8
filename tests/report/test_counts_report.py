"""The cost counted in three ways."""

import pytest

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost
from autotok.errors import UsageError
from autotok.report import counts_report as module
from autotok.report.counts_report import counts_report


def test_the_difference_to_fvcore_is_taken_apart() -> None:
    pytest.importorskip("fvcore")
    config = CompressionConfig("tome", (Reduction(1, num_keep=10),))
    model = compress_backbone(tiny_backbone(), config).eval()
    exact = cost(model.backbone.facts, config)
    report = counts_report(model, exact)
    assert report["check"] == "equal"
    assert 0 < report["fvcore_macs"] < exact.macs
    assert "of fused attention" in report["fvcore_difference"]
    assert "of norms" in report["fvcore_difference"]
    assert "counts otherwise" not in report["fvcore_difference"]
    assert report["left_out_by_fvcore"].startswith("scaled_dot_product_attention")
    assert report["fvcore_uncounted"]["gelu"] == 4
    assert "softmax" in report["left_out_by_formula"]


def test_without_fvcore_the_rest_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: object) -> None:
        raise UsageError("fvcore's count needs fvcore, which is not installed")

    monkeypatch.setattr(module, "count_with_fvcore", missing)
    model = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    report = counts_report(model, cost(model.backbone.facts, model.config))
    assert report["check"] == "equal"
    assert "not installed" in report["fvcore"]
