"""Small convolutional networks that a method looks at images with before the ViT runs.

Weights come from a file, from `<name>.safetensors`, `.pth`, `.pt` or `.bin` in the folder that
AUTOTOK_WEIGHTS names, or from timm's hub; a network is never left with random ones. Counts and
traces, which look at shapes alone, need none.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autotok.errors import CheckpointError, UnknownName

from .checkpoint import read_state_dict
from .hub import hub_or_cache
from .timm_names import is_timm_name
from .torchvision_shim import ensure_torchvision
from .unfilled import making_on

ensure_torchvision()

import timm  # noqa: E402
from timm.utils.model import reparameterize_model  # noqa: E402

FOLDER = "AUTOTOK_WEIGHTS"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CHANNELS = 3
CHAINS = (
    ("stem", "stages", "final_conv"),
    ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    ("conv_stem", "bn1", "blocks"),
)
"""Parts that timm's networks run in this order up to their features, family by family."""


class FeatureNet(nn.Module):
    """Images (B, channels, height, width) to feature maps (B, K, h, w), before pooling.

    The network inside is frozen and no part of this module's parameters or state, so that neither
    fine-tuning nor saving a model touches it; it follows to other devices and precisions. Without
    one it is loaded by `load`, or at the first image; shapes alone stand in for it on the meta
    device.
    """

    def __init__(self, name: str, model: nn.Module | None = None) -> None:
        super().__init__()
        self.name = name
        self._inside: tuple[nn.Module, ...] = ()
        self._elsewhere: dict[torch.device, nn.Module] = {}
        """Copies on other devices; one dictionary for all replicas, which live for one batch."""
        if model is not None:
            self._inside = (model.eval().requires_grad_(False),)

    def load(self, like: Tensor | None = None) -> FeatureNet:
        """This network with its weights, on the device and in the precision of `like`.

        Raises:
            CheckpointError: they cannot be had; the message says what to do.
        """
        if not self._inside:
            model = _pretrained(self.name, None).eval().requires_grad_(False)
            self._inside = (model if like is None else model.to(like),)
        return self

    def to_structure(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The timm network with shapes alone, which takes the place of any weights."""
        self._inside = (_structure(self.name, dtype or torch.float32),)
        return self._inside[0]

    def inside(self, like: Tensor | None = None) -> Any:
        """The timm network, loaded if need be; with shapes alone for images on the meta device."""
        if like is None or not like.is_meta:
            return self._there(self.load(like)._inside[0], like)
        return self._inside[0] if self._has_shapes_alone() else _structure(self.name, like.dtype)

    def _there(self, model: nn.Module, like: Tensor | None) -> nn.Module:
        """The network on the device of `like`: a replica of this module still holds the first's."""
        if like is None or next(model.parameters()).device == like.device:
            return model
        if like.device not in self._elsewhere:
            self._elsewhere[like.device] = copy.deepcopy(model).to(like.device)
        return self._elsewhere[like.device]

    def _has_shapes_alone(self) -> bool:
        return bool(self._inside) and next(self._inside[0].parameters()).is_meta

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, K, h, w) of images (B, 3, H, W); one channel, which is grey, is shown three times."""
        if images.shape[1] == 1:
            images = images.expand(-1, CHANNELS, -1, -1)
        return _features(self.inside(images), images)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> FeatureNet:
        self._elsewhere.clear()
        if not self._has_shapes_alone():  # those are shared
            for model in self._inside:
                model._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _features(model: Any, images: Tensor) -> Tensor:
    """What timm's `forward_features` gives, with no block's input held once the block is through.

    There the stem's output, the largest of all, lives until the last stage is done.
    """
    features: Tensor = images
    for names in CHAINS:
        if all(hasattr(model, name) for name in names):
            for name in names:
                for step in _steps(getattr(model, name)):
                    features = step(features)
            return features
    features = model.forward_features(images)
    return features


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """The modules a sequence runs one after the other, inner sequences opened; else the module."""
    if type(module) is not nn.Sequential:
        yield module
        return
    for inner in module:
        yield from _steps(inner)


def load_feature_net(name: str, *, checkpoint: Path | None = None) -> FeatureNet:
    """The network with pretrained weights, branches folded together, in evaluation mode.

    Args:
        name: A convolutional classifier of timm, such as 'mobileone_s0'.
        checkpoint: Weight file to read; None looks in the folder AUTOTOK_WEIGHTS, then asks the
            hub.

    Raises:
        CheckpointError: the weights cannot be had or do not fit; the message says what to do.
        UnknownName: timm knows no such network, or it gives no feature maps.
    """
    return FeatureNet(name, _pretrained(name, checkpoint))


def feature_net_structure(name: str) -> FeatureNet:
    """The network on the meta device: shapes without weights, for counts and traces."""
    return FeatureNet(name, _structure(name))


@lru_cache(maxsize=32)
def feature_net_cost(name: str, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """(multiply-accumulates of one image, parameters) of the features, classifier left out."""
    net = feature_net_structure(name)
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, *image_shape, device="meta"))
    model: Any = _structure(name)
    unused = sum(p.numel() for p in model.get_classifier().parameters())
    return counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters()) - unused


def _pretrained(name: str, checkpoint: Path | None) -> nn.Module:
    _check_name(name)
    found = _local_file(name) if checkpoint is None else checkpoint
    if found is not None:
        model = _create(name)
        _load(model, name, found)
    else:
        try:
            with hub_or_cache():
                model = timm.create_model(name, pretrained=True)
        except Exception as error:  # the hub raises many types: offline, not found, no such tag
            raise CheckpointError(
                f"pretrained weights of proxy network '{name}' could not be fetched"
                f" ({type(error).__name__}); put them as {name}.safetensors or {name}.pth into a"
                f" folder and name it in the environment variable {FOLDER}"
            ) from error
    return _folded(model)


@lru_cache(maxsize=32)
def _structure(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    _check_name(name)
    with making_on("meta"):
        return _folded(_create(name)).to(dtype)


def _folded(model: nn.Module) -> nn.Module:
    """The network with training-time branches folded into one, where it has any."""
    folded: nn.Module = reparameterize_model(model.eval())
    return folded


def _create(name: str) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


@lru_cache(maxsize=32)
def _check_name(name: str) -> None:
    """Raise unless timm knows the name and its features are maps."""
    if not is_timm_name(name):
        raise UnknownName("proxy network", name, timm.list_models("mobileone*"))
    with making_on("meta"):
        model: Any = timm.create_model(name, pretrained=False).eval()
        features = model.forward_features(torch.empty(1, 3, 224, 224))
    if features.dim() != 4 or features.shape[1] < features.shape[2]:
        raise UnknownName("proxy network with feature maps", name, timm.list_models("mobileone*"))


def _local_file(name: str) -> Path | None:
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise CheckpointError(
            f"folder '{folder}', which {FOLDER} names, does not exist; correct it or leave it out"
        )
    places = [Path(folder) / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((place for place in places if place.is_file()), None)


def _load(model: nn.Module, name: str, path: Path) -> None:
    try:
        model.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint '{path}' does not fit proxy network '{name}'; give timm's own weights of"
            " that name"
        ) from error
