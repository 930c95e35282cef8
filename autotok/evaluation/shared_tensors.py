"""`SharedTensors`: what is worked out once for all processes of a run, in one file they all read.

Decoded images, and the uncompressed model's outputs for them. Every one has its place in the file,
beside a checksum that says whether it is there: whoever has it first writes it. Plain reads and
writes, no mapping: a full disk is then an error to pass over and not a signal, and a tensor in
mid-write fails its checksum and is worked out once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_MOST_BYTES = 4 * 2**30
_DISK_SHARE = 4
"""At most one part in so many of the disk's free room is used."""
_SECTOR = 512
"""Bytes of a block, as `stat` counts them."""
_WORD = 8
"""Bytes per checksum: the value and one, so that 0 means that nothing is there."""


@dataclass
class SharedTensors:
    """Tensors of one shape and type by index; every process opens the same file."""

    path: Path
    count: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    room: int
    """Bytes that the file may take, whoever writes them."""

    def __post_init__(self) -> None:
        self._size = prod(self.shape) * self.dtype.itemsize
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._file)

    @classmethod
    def create(cls, path: Path, count: int, like: Tensor) -> SharedTensors:
        """A new, empty file for `count` tensors such as `like`."""
        kind = str(like.dtype).removeprefix("torch.")
        room = min(_MOST_BYTES, shutil.disk_usage(path.parent).free // _DISK_SHARE)
        facts = {"count": count, "shape": list(like.shape), "dtype": kind, "room": room}
        _facts(path).write_text(json.dumps(facts), "utf-8")
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> SharedTensors:
        """The file that `create` made.

        Raises:
            OSError: there is none.
        """
        facts = json.loads(_facts(path).read_text("utf-8"))
        dtype = getattr(torch, facts["dtype"])
        return cls(path, facts["count"], tuple(facts["shape"]), dtype, facts["room"])

    def get(self, index: int) -> Tensor | None:
        """The tensor of an index, if some process has left it here."""
        mark = int.from_bytes(os.pread(self._file, _WORD, _WORD * index), "little")
        if not mark:
            return None
        content = bytearray(os.pread(self._file, self._size, self._place(index)))
        if len(content) != self._size or zlib.crc32(content) + 1 != mark:
            return None
        return torch.frombuffer(content, dtype=self.dtype).reshape(self.shape)

    def put(self, index: int, value: Tensor) -> bool:
        """Leave the tensor of an index here; False where there is no room for it."""
        if tuple(value.shape) != self.shape or value.dtype != self.dtype:
            return False
        taken = _SECTOR * os.fstat(self._file).st_blocks  # of a file with holes
        if index >= self.count or taken + self._size > self.room:
            return False
        content = value.contiguous().numpy().tobytes()
        mark = (zlib.crc32(content) + 1).to_bytes(_WORD, "little")
        try:
            os.pwrite(self._file, content, self._place(index))
            os.pwrite(self._file, mark, _WORD * index)
        except OSError:  # a full disk: everybody works for himself again
            self.room = 0
            return False
        return True

    def _place(self, index: int) -> int:
        return _WORD * self.count + self._size * index


def _facts(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
