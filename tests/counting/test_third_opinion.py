"""fvcore's count, held to ours where both count the same."""

import sys

import pytest

from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.macs import cost
from autotok.counting.third_opinion import count_with_fvcore
from autotok.errors import UsageError


def test_without_norms_it_is_the_formula_without_attention_products() -> None:
    pytest.importorskip("fvcore")
    model = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    found = count_with_fvcore(model)
    exact = cost(model.backbone.facts, model.config)
    assert found.macs - found.norms == exact.macs_noattn
    assert found.norms > 0


def test_a_structure_without_weights_is_counted_too() -> None:
    pytest.importorskip("fvcore")
    config = CompressionConfig("tome", (Reduction(1, num_keep=100),))
    model = compress_backbone(load_structure("deit_tiny_patch16_224"), config).eval()
    assert next(model.parameters()).is_meta
    found = count_with_fvcore(model)
    assert found.macs - found.norms == cost(model.backbone.facts, config).macs_noattn
    assert next(model.parameters()).is_meta


def test_a_model_that_cannot_be_traced_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fvcore")
    model = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    monkeypatch.setattr(model, "forward_tokens", lambda _: 1 / 0)
    with pytest.raises(UsageError, match=r"fvcore cannot trace this model \(division by zero\)"):
        count_with_fvcore(model)


def test_a_missing_fvcore_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    model = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    with pytest.raises(UsageError, match=r"pip install 'autotok\[check\]'"):
        count_with_fvcore(model)
