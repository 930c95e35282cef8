"""`SharedPixels`: images decoded once for all processes of a run, in one file they all read.

Every image has its place in the file, beside a checksum that says whether it is there: whoever
decodes it first writes it. Plain reads and writes, no mapping: a full disk is then an error to pass
over and not a signal, and an image in mid-write fails its checksum and is decoded once more.
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
_WORD = 8
"""Bytes per checksum: the value and one, so that 0 means that nothing is there."""


@dataclass
class SharedPixels:
    """Images of one shape and type by index; every process opens the same file."""

    path: Path
    count: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    room: int
    """Bytes that this process may still write."""

    def __post_init__(self) -> None:
        self._size = prod(self.shape) * self.dtype.itemsize
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._file)

    @classmethod
    def create(cls, folder: Path, count: int, like: Tensor) -> SharedPixels:
        """A new, empty file in a folder, for `count` images such as `like`."""
        kind = str(like.dtype).removeprefix("torch.")
        facts = {"count": count, "shape": list(like.shape), "dtype": kind}
        (folder / "images.json").write_text(json.dumps(facts), "utf-8")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> SharedPixels:
        """The file that `create` made in the folder.

        Raises:
            OSError: there is none.
        """
        facts = json.loads((folder / "images.json").read_text("utf-8"))
        room = min(_MOST_BYTES, shutil.disk_usage(folder).free // _DISK_SHARE)
        dtype = getattr(torch, facts["dtype"])
        return cls(folder / "images", facts["count"], tuple(facts["shape"]), dtype, room)

    def get(self, index: int) -> Tensor | None:
        """The pixels of an image, if some process has left them here."""
        mark = int.from_bytes(os.pread(self._file, _WORD, _WORD * index), "little")
        if not mark:
            return None
        content = bytearray(os.pread(self._file, self._size, self._place(index)))
        if len(content) != self._size or zlib.crc32(content) + 1 != mark:
            return None
        return torch.frombuffer(content, dtype=self.dtype).reshape(self.shape)

    def put(self, index: int, pixels: Tensor) -> None:
        """Leave the pixels of an image here, as long as there is room."""
        if tuple(pixels.shape) != self.shape or pixels.dtype != self.dtype:
            return
        if index >= self.count or self.room < self._size:
            return
        content = pixels.contiguous().numpy().tobytes()
        mark = (zlib.crc32(content) + 1).to_bytes(_WORD, "little")
        try:
            os.pwrite(self._file, content, self._place(index))
            os.pwrite(self._file, mark, _WORD * index)
        except OSError:  # a full disk: everybody decodes for himself again
            self.room = 0
        self.room -= self._size

    def _place(self, index: int) -> int:
        return _WORD * self.count + self._size * index
