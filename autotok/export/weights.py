"""Weight files of a bundle: written under names others know, found again, and proven unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autotok.backbones.family import tensors_of
from autotok.backbones.loading import save_backbone
from autotok.backbones.pruning import holds_its_origin, in_whole_shapes
from autotok.compression.model import CompressedViT
from autotok.errors import CheckpointError, ConfigError

WEIGHTS, REDUCERS = "weights.safetensors", "reducers.safetensors"
EXITS = "exits.safetensors"


@dataclass(frozen=True)
class WeightFile:
    """A file that a configuration cannot do without."""

    file: str
    """Relative to the YAML that names it."""
    sha256: str


def write_weights(folder: Path, model: CompressedViT, name: str) -> bool:
    """Whether the method has weights of its own; the folder now holds all of the model's.

    `name` is what `load_backbone` calls the backbone.
    """
    backbone = model.backbone
    # whole where pruning alone changed it: the uncompressed model can be had from the file too
    whole = backbone.whole if holds_its_origin(backbone) else in_whole_shapes(backbone)
    save_backbone(whole, folder / WEIGHTS, name=name)
    reducers = tensors_of(model.reducers)
    if reducers:
        save_file(reducers, folder / REDUCERS)
    if model.exits is not None:
        save_file(tensors_of(model.exits), folder / EXITS)
    return bool(reducers)


def weights_home(path: Path) -> Path:
    """Where the weights of a bundle folder, or of a YAML in or beside one, would be."""
    home = path if path.is_dir() else path.parent / path.stem
    return home if (home / WEIGHTS).is_file() else path.parent


def describe_weights(path: Path) -> tuple[WeightFile, ...]:
    """The weight files that the YAML at `path` goes with, as they are now; () if there are none."""
    home = weights_home(path)
    files = [home / name for name in (WEIGHTS, REDUCERS, EXITS)]
    if not files[0].is_file():
        return ()
    return tuple(
        WeightFile(file.relative_to(path.parent).as_posix(), sha256_of(file))
        for file in files
        if file.is_file()
    )


def checked_files(path: Path, files: Sequence[WeightFile]) -> Path:
    """The folder of the weight files that the YAML at `path` names, each proven unchanged.

    Raises:
        ConfigError: none is named.
        CheckpointError: a file is missing or was replaced.
    """
    if not files:
        raise ConfigError(
            f"'{path}' says mode 'retrain', or has exits, but names no weights; take the best.yaml"
            " of the search or fine-tune that made it, or set mode to plug-in and leave exits out"
        )
    for item in files:
        file = path.parent / item.file
        if not file.is_file():
            raise CheckpointError(
                f"weights '{file}', which '{path}' was fine-tuned to, are not here; keep the folder"
                f" '{Path(item.file).parent}' beside it, or fine-tune again"
            )
        if sha256_of(file) != item.sha256:
            raise CheckpointError(
                f"weights '{file}' are not those that '{path}' was written with (another sha256);"
                " restore the file, or fine-tune again"
            )
    return (path.parent / files[0].file).parent


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Fill a module from a file of its bundle.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:160]
        raise CheckpointError(
            f"weights '{origin}' do not fit the model of their bundle ({reason}); was a file"
            " replaced?"
        ) from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def weights_identity(module: nn.Module) -> str:
    """Short hash of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
