"""`torch.compile` takes whole compressed models: the graph is traced and run as it is, unfused."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.tiny import tiny_backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Reduction
from autotok.methods.base import Count
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method, list_methods, unmet_need
from autotok.testing.model import default_backbones, example_config
from autotok.testing.reduction_case import stand_in

STATIC = [name for name in list_methods() if get_method(name).count is Count.STATIC]
ADAPTIVE = [name for name in list_methods() if get_method(name).count is Count.ADAPTIVE]
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def example(name: str, backbone: Backbone) -> CompressedViT:
    return prepared(backbone, example_config(get_method(name), backbone.facts))


def short_example(name: str) -> CompressedViT:
    """`example` on `tiny` with a block less before its first reduction, and no more blocks than are
    reduced in, where the method reduces that early: every block takes its time."""
    config = example_config(get_method(name), tiny_backbone().facts)
    if any(r.layer <= get_method(name).first_layer for r in config.reductions):
        return example(name, tiny_backbone())
    moved = tuple(dataclasses.replace(r, layer=r.layer - 1) for r in config.reductions)
    blocks = 2 if [r.layer for r in moved] == [0, 1] else 3
    return prepared(tiny_backbone(blocks), dataclasses.replace(config, reductions=moved))


def prepared(backbone: Backbone, config: CompressionConfig) -> CompressedViT:
    model = compress_backbone(backbone, config)
    for reducer in model.reducers.children():
        if isinstance(reducer, ImageScoring):
            reducer.network = stand_in()
    return model.eval()


def in_one_graph(model: CompressedViT) -> Tensor:
    """Logits of the compiled model; a graph break raises."""
    torch._dynamo.reset()
    with torch.no_grad():
        logits: Tensor = torch.compile(model, fullgraph=True, backend="eager")(IMAGES)
    return logits


def test_a_compressed_model_compiles_as_one_graph() -> None:
    model = example("tome", tiny_backbone())
    with torch.no_grad():
        assert torch.equal(in_one_graph(model), model(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("name", STATIC)
def test_every_method_of_static_counts_compiles_as_one_graph(name: str) -> None:
    model = short_example(name)
    with torch.no_grad():
        expected = model(IMAGES)
    assert torch.allclose(in_one_graph(model), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", range(1, len(default_backbones())))
@pytest.mark.parametrize("name", ["tome", "topk", "dpcknn"])
def test_every_family_of_backbone_compiles_as_one_graph(name: str, backbone: int) -> None:
    held = copy.deepcopy(default_backbones()[backbone])
    assert unmet_need(get_method(name), held.facts) is None
    model = example(name, held)
    with torch.no_grad():
        expected = model(IMAGES)
    assert torch.allclose(in_one_graph(model), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTIVE)
def test_counts_that_depend_on_the_image_are_what_no_one_graph_holds(name: str) -> None:
    model = example(name, tiny_backbone())
    with pytest.raises(Exception, match="data-dependent"):
        in_one_graph(model)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_pruned": 1}, {"prune_share": 1.0}])
def test_options_that_are_shares_compile_as_well(options: dict[str, float]) -> None:
    config = CompressionConfig("diffrate", (Reduction(1, num_keep=10),), options)
    model = compress_backbone(tiny_backbone(), config)
    with torch.no_grad():
        assert torch.equal(in_one_graph(model), model(IMAGES))
