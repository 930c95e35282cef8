"""Images that keep different numbers of tokens share a batch and do not notice."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig, Reduction
from autotok.methods import Count, get_method, list_methods
from autotok.methods.base import TokenReducer
from autotok.methods.registry import unmet_need
from autotok.testing import default_backbones, reduces

METHODS = [get_method(name) for name in list_methods()]
ADAPTIVE = [m.name for m in METHODS if m.count is Count.ADAPTIVE and reduces(m)]
NAMES = [backbone.facts.name for backbone in default_backbones()]


@cache
def double(name: str) -> Backbone:
    backbone = default_backbones()[NAMES.index(name)]
    return copy.deepcopy(backbone).double().eval()


def images(count: int = 4) -> Tensor:
    """Images whose contrasts differ, so that methods keep different numbers of tokens."""
    generator = torch.Generator().manual_seed(1)
    contrast = torch.tensor([0.2, 1.0, 3.0, 6.0], dtype=torch.float64)[:count]
    x = torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)
    return x * contrast[:, None, None, None]


def compressed(method: str, backbone: Backbone) -> CompressedViT:
    """Two reductions (or one) with thresholds that keep 10 and 5 of 16 patches on average."""
    kind = get_method(method)
    places = [(1, 6)] if kind.single_layer else [(1, 10), (2, 5)]
    reductions = tuple(Reduction(layer, num_keep=count) for layer, count in places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = compress_backbone(backbone, CompressionConfig(method, reductions))
    return model.double().eval()


def calibrate(model: CompressedViT) -> None:
    reducers = [r for r in model.reducers.children() if isinstance(r, TokenReducer)]
    for reducer in reducers:
        reducer.calibrating = True
    with torch.no_grad():
        model(images())
    for reducer in reducers:
        reducer.calibrating = False


def attended(watch: TapRequest) -> list[list[int]]:
    """Per image, the patch tokens in each block's attention and at the read-out."""
    columns = [watch.counts[layer].attention for layer in sorted(watch.counts)]
    return torch.stack(columns, dim=1).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("backbone", NAMES)
@pytest.mark.parametrize("method", ADAPTIVE)
@torch.no_grad()
def test_an_image_in_a_batch_is_the_image_alone(method: str, backbone: str) -> None:
    if unmet_need(get_method(method), double(backbone).facts):
        pytest.skip("the backbone lacks what the method needs")
    model = compressed(method, double(backbone))
    calibrate(model)
    watch = TapRequest(counting=True)
    x = images()
    together = model.backbone.readout(model.forward_tokens(x, watch=watch))
    alone, counts = [], []
    for i in range(len(x)):
        own = TapRequest(counting=True)
        alone.append(model.backbone.readout(model.forward_tokens(x[i : i + 1], watch=own)))
        counts.append(attended(own)[0])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0.0)
    assert counts == attended(watch)


def test_the_batches_of_this_file_are_uneven() -> None:
    uneven = 0
    for method in ADAPTIVE:
        model = compressed(method, double("tiny"))
        calibrate(model)
        watch = TapRequest(counting=True)
        with torch.no_grad():
            model.forward_tokens(images(), watch=watch)
        uneven += len(set(watch.counts[3].attention.tolist())) > 1
    assert uneven >= len(ADAPTIVE) // 2
