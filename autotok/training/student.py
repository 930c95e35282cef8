"""The model that is trained: a copy of the backbone, compressed; and its weights as a file."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.backbones.family import tensors_of, write_tensors
from autotok.backbones.twin import hooks_of
from autotok.compression.compress import compress_backbone, reconfigured
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.errors import CheckpointError, RunDirectoryError, UnsupportedBackbone

FORMAT = "autotok weights 1"


def student_of(backbone: Backbone, config: CompressionConfig) -> CompressedViT:
    """A trainable copy of a backbone, compressed; the backbone itself is never changed.

    A view on a supernet becomes a stand-alone subnet. Weights are float32, those of the method
    start from the configuration's seed.

    Raises:
        ConfigError, IncompatibleMethod: see `compress_backbone`.
        UnsupportedBackbone: the model cannot be copied.
    """
    own = _copy(backbone).float()
    for parameter in own.parameters():
        parameter.requires_grad_(True)
    seed = 0 if config.finetune is None else config.finetune.seed
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return compress_backbone(own, config)


def _copy(backbone: Backbone) -> Backbone:
    alone = backbone.alone()
    if alone is not backbone:
        return alone
    try:
        # hooks watch the model they were put on, and may hold locks, files or past activations
        return copy.deepcopy(backbone, {id(held): OrderedDict() for held in hooks_of(backbone)})
    except Exception as error:  # a module may hold anything
        raise UnsupportedBackbone(
            f"backbone '{backbone.facts.name}' cannot be copied for fine-tuning"
            f" ({type(error).__name__}: {str(error)[:100]}); remove what was attached to it"
        ) from error


def emitted(student: CompressedViT) -> CompressedViT:
    """The student under the configuration that its training found, such as learned amounts.

    The same object where training found none; else a new one on the same backbone, with those of
    the method's parameters that it still has.
    """
    config = student.emitted()
    return student if config == student.config else reconfigured(student, config)


def save_weights(model: CompressedViT, path: Path) -> Path:
    """`path`, now holding the weights of backbone and reducers in full precision (safetensors)."""
    metadata = {"format": FORMAT, "config_id": model.config.config_id}
    try:
        return write_tensors(path, tensors_of(model), metadata)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(
            f"weights '{path}' cannot be written ({error}); free some space, or choose another"
            " folder"
        ) from error


def load_weights(model: CompressedViT, path: Path) -> CompressedViT:
    """The model, now with the weights that `save_weights` wrote for its configuration.

    Raises:
        CheckpointError: missing, damaged, of another configuration, or of other shapes.
    """
    tensors = _read(model, path)
    own = model.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors or name not in own or tensors[name].shape != own[name].shape:
            raise CheckpointError(
                f"weights '{path}' do not fit the model ('{name}' differs); were they made for"
                f" another backbone than '{model.backbone.facts.name}'?"
            )
    model.load_state_dict(tensors)
    return model


def retrained(backbone: Backbone, config: CompressionConfig, path: Path) -> CompressedViT:
    """The model of a fine-tuned configuration, ready to be judged, with the weights of a file.

    Raises:
        CheckpointError: see `load_weights`.
    """
    student = student_of(backbone, config).deploy()  # weights are kept without training's own
    return load_weights(student, path).eval()


def _read(model: CompressedViT, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"weights '{path}' do not exist; fine-tune the configuration first")
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("config_id")
            if found == model.config.config_id:
                return {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"weights '{path}' cannot be read ({str(error)[:100]}); fine-tune the configuration"
            " again"
        ) from error
    raise CheckpointError(
        f"weights '{path}' belong to configuration {found or 'of unknown name'}, not to"
        f" {model.config.config_id}; give the file of this configuration"
    )
