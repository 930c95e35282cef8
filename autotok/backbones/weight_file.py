"""Weight files to plain data: safetensors, or torch's format read by its safe unpickler.

A torch file is looked at twice. The first time no byte of its tensors is read: what they claim to
be is held against what the file has, so that a small file cannot ask for a large memory. Objects
that training scripts put beside the weights (argparse's Namespace, paths, NumPy scalars) become
empty stand-ins: nothing of what a file names is ever imported.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from autotok.errors import CheckpointError

# a few bytes of a damaged file can claim any size: what tensors would take is held to this
MAX_BYTES = 8 * 2**30
# what torch.save writes since 1.6 is a zip archive; before, a pickle
ZIP_MAGIC = b"PK\x03\x04"
SETTINGS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"pathlib.{path}" for path in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")),
    *(f"pathlib._local.{path}" for path in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")),
    *(f"numpy.{core}.multiarray.{make}" for core in ("core", "_core")
      for make in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "typing.Any",
    *(f"omegaconf.{word}" for word in (
        "base.ContainerMetadata", "base.Metadata", "dictconfig.DictConfig",
        "listconfig.ListConfig", "nodes.AnyNode")),
    *(f"builtins.{kind}" for kind in ("list", "dict", "tuple", "int", "str", "float", "bool")),
)  # fmt: skip
"""Classes of what training scripts keep beside the weights; none of it is looked at."""
MAPPINGS = ("collections.defaultdict", "yacs.config.CfgNode", "easydict.EasyDict")


def read_weight_file(path: Path) -> Mapping[Any, object]:
    """What a .safetensors, .pth, .pt or .bin file holds, its tensors on the CPU and unchecked.

    Raises:
        CheckpointError: the file is missing, too large, damaged, or not a weight file.
    """
    _check_size(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path, "cpu")


def read_claims(path: Path) -> Mapping[Any, object] | None:
    """The same with tensors on the meta device, nothing of them read; None for safetensors.

    Raises:
        CheckpointError: as for `read_weight_file`; or an archive that would grow on reading.
    """
    _check_size(path)
    if path.suffix == ".safetensors":
        return None  # the format's own reader holds claims against the file
    if _is_archive(path):
        _check_archive(path)
    return _read_torch(path, "meta")


def check_claims(tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Raise unless every tensor is a plain one and all of its values are in the file.

    Raises:
        CheckpointError: naming the first that is not.
    """
    total = 0
    for key, value in tensors:
        odd = _oddity(value)
        if odd:
            raise CheckpointError(
                f"checkpoint '{path}' cannot be used: {shown(key)} {odd}; save plain dense tensors"
            )
        total += value.numel() * value.element_size()
    if total > MAX_BYTES:
        raise CheckpointError(
            f"checkpoint '{path}' would take {total >> 30} GB of memory, allowed are"
            f" {MAX_BYTES >> 30} GB; save each tensor once"
        )


def shown(key: str) -> str:
    """A tensor's name in quotes for a message, of any length and any characters."""
    return repr(key if len(key) <= 80 else f"{key[:77]}...")


def _oddity(value: Tensor) -> str | None:
    """What keeps a tensor from being plain data; None where nothing does."""
    if value.is_nested or value.layout is not torch.strided:
        return "is a sparse or nested tensor"
    if value.is_quantized or value.is_complex():
        return f"holds {str(value.dtype).removeprefix('torch.')} values"
    if value.device.type not in ("cpu", "meta"):
        return f"is on device '{value.device}'"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has shape {tuple(value.shape)}, far more values than the file stores for it"
    return None


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; give the path of a weight file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"checkpoint '{path}' is larger than {MAX_BYTES >> 30} GB; refused")


def _read_safetensors(path: Path) -> Mapping[Any, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"checkpoint '{path}' is not a readable safetensors file ({reason}); it may be damaged"
        ) from error


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _check_archive(path: Path) -> None:
    """Raise where a zip archive holds more bytes than the file: torch never compresses one."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _unreadable(path, "damaged archive") from error
    grown = sum(part.file_size for part in parts)
    if grown > path.stat().st_size or any(part.compress_type for part in parts):
        raise CheckpointError(
            f"checkpoint '{path}' is a compressed archive that would grow to {grown / 2**20:.0f}"
            " MB; give the file as torch.save wrote it"
        )


def _read_torch(path: Path, device: str) -> Mapping[Any, object]:
    inert: list[Any] = [(_Setting, name) for name in SETTINGS]
    inert += [(_settings, name) for name in MAPPINGS]
    try:
        place: Any = device if device == "meta" else _held_against(_record_sizes(path))
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            warnings.simplefilter("ignore")
            data = torch.load(str(path), map_location=place, weights_only=True)
    except Exception as error:  # the unpickler raises whatever the garbage makes it raise
        raise _unreadable(path, _reason(error)) from error
    if not isinstance(data, Mapping):
        raise CheckpointError(
            f"checkpoint '{path}' holds a {type(data).__name__}, not a state dict of tensors"
        )
    return data


def _record_sizes(path: Path) -> set[int] | None:
    """Bytes of each part of an archive; None where the file is none."""
    if not _is_archive(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return {part.file_size for part in archive.infolist()} | {0}


def _held_against(sizes: set[int] | None) -> Callable[[UntypedStorage, str], UntypedStorage]:
    """What torch asks where a storage belongs: here, if the file has as many bytes for it.

    Not every version of torch compares the two itself.
    """

    def place(storage: UntypedStorage, _: str) -> UntypedStorage:
        if sizes is not None and storage.nbytes() not in sizes:
            raise ValueError(f"{storage.nbytes()} bytes are claimed, and no part has so many")
        return storage

    return place


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint '{path}' is not a readable weight file ({reason}); give a state dict saved as"
        " safetensors or with torch.save"
    )


def _reason(error: Exception) -> str:
    """In few words; torch's own text advises to turn the safe loader off."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]{1,80})", text)
    if named:
        return f"it holds a '{named.group(1)}' object"
    if "uantized" in text:
        return "it holds quantized tensors"
    if "nested" in text:
        return "it holds nested tensors"
    if "out of meta tensor" in text:  # torch 2.14 looks into sparse ones while it reads
        return "one of its tensors is a sparse or nested tensor"
    if "TorchScript" in text:
        return "it is a TorchScript program"
    return f"damaged, {type(error).__name__}"


class _Setting:
    """Stands in for an object whose class is none of our business; forgets all it is given."""

    def __new__(cls, *_: object) -> _Setting:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _settings(*_: object) -> OrderedDict[object, object]:
    """Stands in for a dictionary of another class."""
    return OrderedDict()
