"""Adapters that let weights of one degree of merging run at another: train them, write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autotok.backbones.base import left_alone
from autotok.backbones.loading import as_backbone, check_name, load_backbone
from autotok.devices.placing import torch_device
from autotok.evaluation.data import check_data, load_data
from autotok.files import check_folder
from autotok.training.pair_distillation import PairSpec, distil_pairs, save_adapters


@left_alone
def train_adapters(
    model: nn.Module | str,
    path: str | Path,
    *,
    data: str = "demo",
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
    check_data(data)
    check_folder(Path(path).parent)
    if isinstance(model, str):
        check_name(model)
        backbone = load_backbone(model, checkpoint=checkpoint)
    else:
        backbone = as_backbone(model)
    if device is not None:
        backbone.to(torch_device(device))
    train = load_data(data, backbone, split="train")
    adapters = distil_pairs(backbone, train, wished, on_step=on_step)
    return save_adapters(adapters, Path(path), backbone, wished)
