"""Weights that a method changes once: adapters read, checked and folded into a copy."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autotok.backbones.base import Backbone
from autotok.backbones.checkpoint import read_state_dict
from autotok.backbones.twin import twin_of
from autotok.config import CompressionConfig
from autotok.errors import CheckpointError, IncompatibleMethod
from autotok.methods.folding import Folding, WeightFold, adapters_of
from autotok.methods.registry import get_method

from .schedule import Schedule

DIGITS = 16
"""Of a file's sha256, in a configuration."""


@dataclass(frozen=True)
class AdapterFile:
    """The adapters of one file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    sha256: str
    """Its first digits."""


def read_adapters(path: Path) -> AdapterFile:
    """A file of adapters and what it says of itself.

    Raises:
        CheckpointError: it is missing or no weight file.
    """
    tensors = read_state_dict(path)
    metadata: Mapping[str, str] = {}
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"adapters '{path}' cannot be read ({str(error)[:100]}); train them again"
            ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return AdapterFile(tensors, metadata, digest[:DIGITS])


def pinned(config: CompressionConfig, adapters: Path | None = None) -> CompressionConfig:
    """The configuration with the file of its adapters, that file's hash, and every option spelled
    out, as the file says where the configuration does not; unchanged without adapters.

    Raises:
        CheckpointError: see `read_adapters`.
    """
    method = get_method(config.method)
    path = str(adapters or adapters_of(config))
    if not path or not issubclass(method, Folding):
        return config
    file = read_adapters(Path(path))
    said = {"adapters_sha256": file.sha256, **method.told_by(file.tensors, file.metadata)}
    options = {**method.resolve_options({}), **said, **config.options, "adapters": path}
    return dataclasses.replace(config, options=options)


def folded(backbone: Backbone, config: CompressionConfig, schedule: Schedule) -> Backbone:
    """The backbone that a configuration runs on: this one, or one with weights of its own where
    the method folds adapters in.

    Raises:
        CheckpointError: the adapters are missing, another file's, or another backbone's.
        IncompatibleMethod: the backbone has no such weights.
    """
    method = get_method(config.method)
    path = adapters_of(config)
    if not path or not issubclass(method, Folding) or next(backbone.parameters()).is_meta:
        return backbone
    options = method.resolve_options(config.options)
    file = read_adapters(Path(path))
    asked = str(options["adapters_sha256"])
    if asked and asked != file.sha256:
        raise CheckpointError(
            f"adapters '{path}' are not those of the configuration (sha256 {file.sha256}, not"
            f" {asked}); restore the file, or leave adapters_sha256 out"
        )
    fold = method.weight_fold(backbone.facts, schedule.by_layer, options, file.tensors)
    return backbone if fold is None else with_fold(backbone, fold)


@torch.no_grad()
def with_fold(backbone: Backbone, fold: WeightFold) -> Backbone:
    """A twin of the backbone whose projections went through a fold; the others are shared.

    Raises:
        IncompatibleMethod: the backbone has no projections of its own.
    """
    own = backbone.alone()
    new: dict[int, nn.Parameter] = {}
    for layer, block in enumerate(own.facts.blocks):
        weights = own.qkv_weights(layer)
        if not weights:
            raise IncompatibleMethod(
                f"backbone '{own.facts.name}' (family {own.facts.family}) has no projection to"
                " queries, keys and values of its own, so adapters cannot be folded into it;"
                " leave adapters out"
            )
        joint = fold.fold(layer, torch.cat([w.detach() for w in weights]), block.width)
        parts = joint.split([len(w) for w in weights])
        for weight, part in zip(weights, parts, strict=True):
            new[id(weight)] = nn.Parameter(part.clone(), requires_grad=weight.requires_grad)
    return twin_of(own, lambda parameter: new.get(id(parameter), parameter))
