"""Any folder of images as evaluation data; labelled where its class folders match the model."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from autotok.errors import DataError

from .order import nested_order
from .preprocessing import Preprocessing, read_image
from .shared_pixels import SharedPixels

__all__ = ["FolderData", "PixelCache"]

logger = logging.getLogger(__name__)
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
SPLITS = {"val": ("val", "validation", "valid", "test"), "train": ("train", "training")}
MAX_FILES = 5_000_000
MAX_CACHE_BYTES = 512 * 2**20
MAX_UNREADABLE_SHARE = 0.01


class PixelCache:
    """Pixels of the images used last, up to a number of bytes."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pixels: OrderedDict[int, Tensor] = OrderedDict()
        self.shared: SharedPixels | None = None
        """Kept there instead, for all processes of a run."""

    def get(self, index: int) -> Tensor | None:
        """The pixels, or None if they have to be decoded again."""
        if self.shared is not None:
            return self.shared.get(index)
        if index in self._pixels:
            self._pixels.move_to_end(index)
        return self._pixels.get(index)

    def put(self, index: int, pixels: Tensor) -> None:
        """Remember pixels; those not used for longest make room."""
        if self.shared is not None:
            return self.shared.put(index, pixels)
        self._pixels[index] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self._max_bytes and len(self._pixels) > 1:
            _, dropped = self._pixels.popitem(last=False)
            self._bytes -= dropped.nbytes


class FolderData:
    """Images below a folder, decoded once as long as they fit the cache.

    With a sub-folder named after the split ('val', 'validation', 'test'; 'train'), that one is
    used. Labelled if the class folders are as many as the model's classes (in alphabetical order,
    as ImageFolder does) or are ImageNet synsets; otherwise label-free, whatever the layout.

    An image that cannot be read is skipped with a warning, unless they are 1 % of the folder or
    more: then `subset` refuses, naming the first.
    """

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, num_classes: int, *, split: str = "val"
    ) -> None:
        root = _split_folder(folder, split)
        self.name = str(folder)
        self._preprocessing = preprocessing
        self._files = sorted(_image_files(root))
        if not self._files:
            raise DataError(
                f"folder '{root}' holds no images ({', '.join(sorted(SUFFIXES))}); give a folder of"
                " images, or of one sub-folder per class"
            )
        self.class_names, self._labels = _labels(root, self._files, num_classes)
        self._cache = PixelCache()
        self._orders: dict[int, Iterator[int]] = {}
        self._chosen: dict[int, list[int]] = {}
        self._unreadable: list[DataError] = []
        self._bad: set[int] = set()

    @property
    def labelled(self) -> bool:
        """Whether `batch` gives labels."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self._files) - len(self._bad)

    def subset(self, count: int, seed: int) -> list[int]:
        """The first `count` readable images of the seeded order; fewer only if there are no more.

        Raises:
            DataError: 1 % of the folder or more cannot be read.
        """
        if seed not in self._orders:
            positions = self._labels if self._labels is not None else len(self._files)
            self._orders[seed] = iter(nested_order(positions, seed))
            self._chosen[seed] = []
        chosen = self._chosen[seed]
        while len(chosen) < count:
            index = next(self._orders[seed], None)
            if index is None:
                break
            if self._readable(index):
                chosen.append(index)
        return chosen[:count]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) float32, normalised, and labels (B,) int64 or None."""
        images = self._preprocessing.normalise(torch.stack([self._pixels(i) for i in indices]))
        if self._labels is None:
            return images, None
        return images, torch.tensor([self._labels[i] for i in indices], dtype=torch.int64)

    def path(self, index: int) -> Path:
        """File of an image."""
        return self._files[index]

    def _pixels(self, index: int) -> Tensor:
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = self._preprocessing.pixels(read_image(self._files[index]))
            self._cache.put(index, pixels)
        return pixels

    def _readable(self, index: int) -> bool:
        if index in self._bad:
            return False
        try:
            self._pixels(index)
        except DataError as error:
            self._bad.add(index)
            self._unreadable.append(error)
            first, bad = self._unreadable[0], len(self._bad)
            if bad >= MAX_UNREADABLE_SHARE * len(self._files):
                count = f" ({bad} of {len(self._files)} images are unreadable)" if bad > 1 else ""
                raise DataError(f"{first}{count}") from error
            logger.warning("%d unreadable image skipped: %s", bad, error)
            return False
        return True


def _split_folder(folder: Path, split: str) -> Path:
    if split not in SPLITS:
        raise DataError(f"split '{split}' is unknown; known: {', '.join(SPLITS)}")
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"data folder '{folder}' {kind}; give a folder of images, or one of: demo, digits,"
            " cifar10"
        )
    for name in SPLITS[split]:
        if (folder / name).is_dir():
            return folder / name
    if split == "train":
        raise DataError(
            f"folder '{folder}' has no sub-folder 'train'; fine-tuning needs images apart from"
            " those it"
            " is judged on: put them into 'train' and the others into 'val'"
        )
    return folder


def _image_files(root: Path) -> Iterator[Path]:
    """Image files below `root`; hidden ones left out, links followed once."""
    seen: set[Path] = set()
    count = 0
    for folder, inner, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                continue
            count += 1
            if count > MAX_FILES:
                raise DataError(
                    f"folder '{root}' holds more than {MAX_FILES} images; give a smaller one"
                )
            yield Path(folder) / name


def _labels(
    root: Path, files: Sequence[Path], num_classes: int
) -> tuple[tuple[str, ...] | None, list[int] | None]:
    """(class names, one label per file), or (None, None) where folders do not match the model."""
    tops = [file.relative_to(root).parts for file in files]
    if num_classes < 2 or any(len(parts) < 2 for parts in tops):
        return None, None
    names = sorted({parts[0] for parts in tops})
    if len(names) != num_classes:
        synsets = imagenet_synsets() if num_classes == 1000 else ()
        if not set(names) <= set(synsets):
            return None, None
        names = list(synsets)
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), [index[parts[0]] for parts in tops]


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1,000 synsets of ImageNet-1k in class order, from timm's list; () without it."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return ()
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return tuple(path.read_text("utf-8").split()) if path.is_file() else ()
