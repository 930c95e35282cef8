"""What is trained once, so that one model runs at several degrees of merging, or image sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autotok.backbones.base import Backbone, left_alone
from autotok.backbones.loading import as_backbone, check_name, load_backbone, save_backbone
from autotok.devices.placing import torch_device
from autotok.evaluation.data import check_data, load_data
from autotok.files import check_output_file
from autotok.training.pair_distillation import PairSpec, distil_pairs, save_adapters
from autotok.training.size_sandwich import SizesSpec, train_at_sizes


@left_alone
def train_adapters(
    model: nn.Module | str,
    path: str | Path,
    *,
    data: str | Path = "demo",
    spec: PairSpec | None = None,
    changes: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """`path`, now holding the adapters of a model that method 'tocom' folds into its weights.

    They are trained once per pre-trained model, on its training images without labels; any later
    fine-tune of it takes them (`autotok.compress(model, method="tocom", r=8, weights=path)`).

    Args:
        model: A ViT, which is not changed, or a backbone's name.
        path: A .safetensors file; the scale that the adapters were trained at travels in it.
        data: 'demo', 'digits', 'cifar10' or an image folder, of which the training split is taken.
        spec: How to train.
        changes: Fields of the spec to set otherwise.
        checkpoint: Weights of a model that is given by name.
        device: 'auto', 'cpu', 'cuda[:N]' or 'mps'; where the model is by default.
        on_step: Told of every step's number and loss.

    Raises:
        ConfigError, DataError, CheckpointError, RunDirectoryError, Diverged
        IncompatibleMethod: the model has no projections that adapters could be folded into.
    """
    wished = dataclasses.replace(spec or PairSpec(), **(changes or {}))
    backbone = _opened(model, path, data, checkpoint, device)
    train = load_data(data, backbone, split="train")
    adapters = distil_pairs(backbone, train, wished, on_step=on_step)
    return save_adapters(adapters, Path(path), backbone, wished)


@left_alone
def train_sizes(
    model: nn.Module | str,
    path: str | Path,
    *,
    data: str | Path = "demo",
    spec: SizesSpec | None = None,
    changes: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """`path`, now holding weights of a model for several image sizes and keep rates (SuperViT).

    `load_backbone(name, checkpoint=path)` reads them, and so does whatever takes a checkpoint: a
    search over image sizes then runs each on its own position table.

    Args:
        model: A plain ViT of timm, which is not changed, or its name.
        path: A .safetensors file.
        data: 'demo', 'digits', 'cifar10' or a labelled image folder; its training split is taken.
        spec: How to train; its sizes and layers are DeiT-S's.
        changes: Fields of the spec to set otherwise.
        checkpoint: Weights of a model that is given by name; tables that they have are kept.
        device: 'auto', 'cpu', 'cuda[:N]' or 'mps'; where the model is by default.
        on_step: Told of every step's number and mean loss.

    Raises:
        ConfigError, DataError, CheckpointError, RunDirectoryError, Diverged
        UnsupportedBackbone: the model cannot hold position tables for several sizes.
    """
    wished = dataclasses.replace(spec or SizesSpec(), **(changes or {}))
    backbone = _opened(model, path, data, checkpoint, device)
    train = load_data(data, backbone, split="train")
    trained = train_at_sizes(backbone, train, wished, on_step=on_step)
    save_backbone(trained, Path(path), name=backbone.facts.name)
    return Path(path)


def _opened(
    model: nn.Module | str,
    path: str | Path,
    data: str | Path,
    checkpoint: str | Path | None,
    device: str | None,
) -> Backbone:
    """The backbone to train from, where it is asked for; all names are checked before."""
    check_data(data)
    check_output_file(path)
    if isinstance(model, str):
        check_name(model)
        backbone = load_backbone(model, checkpoint=checkpoint)
    else:
        backbone = as_backbone(model)
    if device is not None:
        backbone.to(torch_device(device))
    return backbone
