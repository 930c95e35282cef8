"""Weight files to tensors: safetensors or `torch.load(weights_only=True)`, never objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from autotok.errors import CheckpointError

__all__ = ["read_state_dict"]

WRAPPERS = ("model", "state_dict", "model_state", "module")
MAX_BYTES = 8 * 2**30


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pth, .pt or .bin file; common wrapper keys are unwrapped.

    Raises:
        CheckpointError: the file is missing, too large, damaged, or not a weight file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; give the path of a weight file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"checkpoint '{path}' is larger than {MAX_BYTES >> 30} GB; refused")
    data = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for _ in range(3):
        for key in WRAPPERS:
            inner = data.get(key)
            if isinstance(inner, Mapping):
                data = inner
                break
    tensors = {str(k): v for k, v in data.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"checkpoint '{path}' holds no tensors; expected a state dict in safetensors or"
            " torch format"
        )
    if all(key.startswith("module.") for key in tensors):
        tensors = {key[len("module.") :]: value for key, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> Mapping[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint '{path}' is not a readable safetensors file ({error}); it may be damaged"
        ) from error


def _read_torch(path: Path) -> Mapping[str, object]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the garbage makes it raise
        reason = type(error).__name__  # its text advises to turn the safe loader off
        raise CheckpointError(
            f"checkpoint '{path}' is not a readable weight file ({reason}); give a state dict"
            " saved as"
            " safetensors or with torch.save"
        ) from error
    if not isinstance(data, Mapping):
        raise CheckpointError(
            f"checkpoint '{path}' holds a {type(data).__name__}, not a state dict of tensors"
        )
    return data
