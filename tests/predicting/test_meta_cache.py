"""Results remembered on the meta device."""

import pytest
import torch

import autotok.methods  # noqa: F401
from autotok.backbones.loading import load_structure
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.config import CompressionConfig, Reduction
from autotok.counting.meta_model import meta_copy
from autotok.predicting import trace as traces
from autotok.predicting.trace import trace


@pytest.mark.parametrize("method", ["tome", "evit", "kmedoids", "ats", "sinkhorn", "dpcknn"])
def test_remembered_results_change_no_trace(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CompressionConfig(method=method, reductions=(Reduction(2, num_keep=9),))
    structure = load_structure("tiny")
    trace(compress_backbone(structure, config))
    remembered = trace(compress_backbone(structure, config))
    monkeypatch.setattr(traces, "_OUTCOMES", lambda func, args, kwargs: func(*args, **kwargs))
    assert remembered == trace(compress_backbone(load_structure("tiny"), config))


def test_a_structure_is_shared_by_copies_and_left_as_it_was() -> None:
    structure = meta_copy(load_structure("tiny"))
    before = dict(vars(structure))
    model = compress_backbone(structure, CompressionConfig("topk", (Reduction(2, num_keep=9),)))
    assert meta_copy(model).backbone is structure
    assert meta_copy(model, dtype=torch.float16).backbone is not structure
    trace(model)
    assert vars(structure) == before
    real = compress_backbone(tiny_backbone(), model.config)
    assert meta_copy(real).backbone is not real.backbone
