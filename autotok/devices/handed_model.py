"""A model on its way to another process: weights in a safetensors file, the rest as bytes.

The bytes are a pickle, so they go by a pipe or Ray's object store, never by a file: whoever may
write to a folder of ours cannot make a process of ours run code. Readers map the weights.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

Place = tuple[int, str, tuple[int, ...], tuple[int, ...], int, bool, bool]
"""Of a tensor: which one, its storage in the file, size, stride, offset; parameter? trainable?"""


def take_apart(content: object, path: Path) -> bytes:
    """Anything that holds models, without its weights; these are in the file `path` then.

    Raises:
        Exception: it does not pickle, whatever its own methods raise then.
    """
    rest = io.BytesIO()
    pickler = _Pickler(rest)
    pickler.dump(content)
    save_file(pickler.stored, path)
    return rest.getvalue()


def put_together(rest: bytes, path: Path) -> Any:
    """What `take_apart` was given, its weights on the CPU and mapped from the file."""
    try:
        stored = load_file(path)
    except UnicodeEncodeError:  # torch maps no file whose name the locale cannot say
        stored = load(path.read_bytes())
    return _Unpickler(rest, stored).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.stored: dict[str, Tensor] = {}
        """By name: every storage once, whatever number of tensors look at it."""
        self._names: dict[tuple[str, int, torch.dtype], str] = {}
        self._numbers: dict[int, int] = {}
        self._alive: list[Tensor] = []  # or Python might give its id to another

    def persistent_id(self, value: object) -> Place | None:
        if type(value) not in (Tensor, nn.Parameter):
            return None
        assert isinstance(value, Tensor)
        if value.is_meta or value.layout is not torch.strided or value.is_quantized:
            return None
        self._alive.append(value)
        number = self._numbers.setdefault(id(value), len(self._numbers))
        kind = isinstance(value, nn.Parameter), value.requires_grad
        offset = int(value.storage_offset())
        return number, self._stored(value), tuple(value.shape), value.stride(), offset, *kind

    def _stored(self, value: Tensor) -> str:
        """The name of the storage behind a tensor."""
        storage = value.untyped_storage()
        key = str(storage.device), storage.data_ptr(), value.dtype
        if key not in self._names:
            self._names[key] = f"{len(self._names)}"
            whole = torch.empty(0, dtype=value.dtype, device=value.device).set_(storage)
            self.stored[self._names[key]] = whole.cpu()
        return self._names[key]


class _Unpickler(pickle.Unpickler):
    def __init__(self, rest: bytes, stored: dict[str, Tensor]) -> None:
        super().__init__(io.BytesIO(rest))
        self._stored = stored
        self._made: dict[int, Tensor] = {}

    def persistent_load(self, place: Place) -> Tensor:
        number, name, size, stride, offset, parameter, trainable = place
        if number not in self._made:
            found = self._stored[name].as_strided(size, stride, offset)
            made = nn.Parameter(found, trainable) if parameter else found.requires_grad_(trainable)
            self._made[number] = made
        return self._made[number]
