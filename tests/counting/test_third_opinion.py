"""fvcore's count, held to ours where both count the same."""

import sys

import pytest

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig
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


def test_a_missing_fvcore_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    model = compress_backbone(tiny_backbone(), CompressionConfig()).eval()
    with pytest.raises(UsageError, match=r"pip install 'autotok\[check\]'"):
        count_with_fvcore(model)
