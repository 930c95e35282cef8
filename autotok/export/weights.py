"""Weight files of a bundle: written under names others know, found again, and proven unchanged."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.family import tensors_of
from autotok.backbones.loading import save_backbone
from autotok.backbones.pruning import holds_its_origin, in_whole_shapes
from autotok.compression.model import CompressedViT
from autotok.errors import CheckpointError, ConfigError, misfit

WEIGHTS, REDUCERS = "weights.safetensors", "reducers.safetensors"
EXITS = "exits.safetensors"
_PERIOD, _SUMS = 1021, 4
_APART = 1e-5
"""Of the norm of all weights, by which the sums of a fingerprint may differ: resampled or folded on
another machine, the same weights differ in their last digits."""


@dataclass(frozen=True)
class WeightFile:
    """A file that a configuration was written with."""

    file: str
    """Relative to the YAML that names it."""
    sha256: str
    fingerprint: tuple[float, ...] = ()
    """See `fingerprint`: tells whether a backbone's weights from elsewhere are the same."""


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
        WeightFile(
            file.relative_to(path.parent).as_posix(),
            sha256_of(file),
            _known_fingerprint(file) if file.name == WEIGHTS else (),
        )
        for file in files
        if file.is_file()
    )


def named_home(path: Path, files: Sequence[WeightFile]) -> Path:
    """The folder of the weight files that the YAML at `path` names, or where else they would be."""
    named = [path.parent / item.file for item in files[:1]]
    return named[0].parent if named and named[0].is_file() else weights_home(path)


def check_named(path: Path, files: Sequence[WeightFile]) -> None:
    """Raise where a YAML with trained weights names none.

    Raises:
        ConfigError: none is named.
    """
    if not files:
        raise ConfigError(
            f"'{path}' says mode 'retrain', or has exits, but names no weights; take the best.yaml"
            " of the search or fine-tune that made it, or set mode to plug-in and leave exits out"
        )


def check_files(path: Path, files: Sequence[WeightFile], home: Path, *, otherwise: str) -> None:
    """Raise unless `home` holds the weight files that the YAML at `path` names, unchanged.

    Args:
        otherwise: What to do where they cannot be had again.

    Raises:
        CheckpointError: a file is missing or was replaced.
    """
    for item in files:
        file = home / Path(item.file).name
        if not file.is_file():
            raise CheckpointError(
                f"weights '{path.parent / item.file}', which '{path}' was written with, are not"
                f" here; keep the folder '{Path(item.file).parent}' beside it, or {otherwise}"
            )
        if sha256_of(file) != item.sha256:
            raise CheckpointError(
                f"weights '{file}' are not those that '{path}' was written with (another sha256);"
                f" restore the file, or {otherwise}"
            )


def check_same(path: Path, files: Sequence[WeightFile], model: CompressedViT, name: str) -> None:
    """Raise unless a model made without the files that a YAML names has the weights in them.

    Args:
        name: What `load_backbone` calls the backbone.

    Raises:
        CheckpointError: they are others.
    """
    said = next((item.fingerprint for item in files if item.fingerprint), ())
    if not said:  # written by an earlier version
        return
    with tempfile.TemporaryDirectory() as folder:  # saved alike, named alike
        write_weights(Path(folder), model, name)
        found = fingerprint(Path(folder) / WEIGHTS)
    apart = max(abs(a - b) for a, b in zip(said, found, strict=True))
    if not apart <= _APART * said[0]:
        raise CheckpointError(
            f"'{path}' was written with the weights '{files[0].file}', which are not here, and"
            f" those of backbone '{name}' are others; keep the folder beside it, or give weights"
            " with --checkpoint"
        )


_LATEST: dict[str, Any] = {}
"""Which file the latest fingerprint is of, and the fingerprint: a large file takes seconds."""


def _known_fingerprint(path: Path) -> tuple[float, ...]:
    """The same of a file that was just written, whatever it is called by now: two YAMLs name it."""
    found = path.stat()
    key = found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
    if _LATEST.get("key") != key:
        _LATEST.update(key=key, fingerprint=fingerprint(path))
    known: tuple[float, ...] = _LATEST["fingerprint"]
    return known


def fingerprint(path: Path) -> tuple[float, ...]:
    """The norm of all values in a weight file, and some sums of them that are weighted by place."""
    basis = torch.cos(torch.arange(_PERIOD * _SUMS).double()).view(_PERIOD, _SUMS)
    squares, sums, start = 0.0, torch.zeros(_SUMS).double(), 0
    for _, tensor in sorted(load_file(path).items()):
        values = tensor.double().flatten().nan_to_num(0.0, 0.0, 0.0)
        rows = F.pad(values, (0, -len(values) % _PERIOD)).view(-1, _PERIOD)
        sums += torch.cos(torch.arange(start, start + len(rows)).double()) @ (rows @ basis)
        squares, start = squares + float(values.square().sum()), start + len(rows)
    return (squares**0.5, *sums.tolist())


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Fill a module from a file of its bundle.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"weights '{origin}' do not fit the model of their bundle ({misfit(error)}); was a file"
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
