"""Any folder of images as evaluation data; labelled where its class names are the model's."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from autotok.errors import DataError, printable

from .classes import Source, own_classes, understand
from .layout import HELD_OUT_SEED, Layout, list_images, source_of
from .order import nested_order
from .preprocessing import Preprocessing
from .shared_tensors import SharedTensors

logger = logging.getLogger(__name__)
MAX_CACHE_BYTES = 512 * 2**20
MAX_UNREADABLE_SHARE = 0.01
READ_FOR_IDENTITY = 16
"""Files that are read to tell two folders of the same names apart."""
TOGETHER = 64
"""Images decoded at once: threads are kept busy, and the cache holds them until they are used."""


class PixelCache:
    """Pixels of the images used last, up to a number of bytes."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pixels: OrderedDict[int, Tensor] = OrderedDict()
        self.shared: SharedTensors | None = None
        """Kept there instead, for all processes of a run, as long as there is room."""

    def get(self, index: int) -> Tensor | None:
        """The pixels, or None if they have to be decoded again."""
        found = None if self.shared is None else self.shared.get(index)
        if found is not None:
            return found
        if index in self._pixels:
            self._pixels.move_to_end(index)
        return self._pixels.get(index)

    def put(self, index: int, pixels: Tensor) -> None:
        """Remember pixels; those not used for longest make room."""
        if self.shared is not None and self.shared.put(index, pixels):
            return
        self._pixels[index] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self._max_bytes and len(self._pixels) > 1:
            _, dropped = self._pixels.popitem(last=False)
            self._bytes -= dropped.nbytes


class FolderData:
    """Images below a folder, decoded once as long as they fit the cache.

    With a sub-folder named after the split ('val', 'validation', 'test'; 'train') and no class
    beside it, that one is used; where there is a train folder alone, a fifth of every class is held
    out for judging and the rest is for training, the same always. `understand` says how class names
    become labels, and `labelling` how it went here.

    An image that cannot be read is skipped with a warning, unless they are 1 % of the folder or
    more: then `subset` refuses, naming the first. `len` counts it all the same: some processes find
    it sooner than others.
    """

    def __init__(
        self,
        folder: Path,
        preprocessing: Preprocessing,
        num_classes: int | None,
        *,
        split: str = "val",
        layout: Layout | None = None,
        class_names: Path | None = None,
        own_names: Sequence[str] = (),
    ) -> None:
        """`num_classes` are the model's, None for classes of the folders' own; `layout` is
        `folder`'s own by default; `class_names` is a file of the model's class
        names in order, and `own_names` are those that the model brings.

        Raises:
            DataError: no such images, or class names that do not fit the model.
        """
        layout = layout or Layout.of(folder)
        root = layout.val if split == "val" else layout.train
        if root is None:
            raise DataError(
                f"folder '{folder}' has no sub-folder 'train'; fine-tuning needs images apart from"
                " those it is judged on: put them into 'train' and the others into 'val'"
            )
        self.name = printable(str(folder))
        self._preprocessing = preprocessing
        listing = list_images(root)
        if layout.shared:
            listing = listing.part(held_out=split == "val")
        train = _trained(layout, root, listing.source)
        if num_classes is None:
            found = own_classes(listing.source, train)
        else:
            found = understand(
                listing.source, num_classes, given=class_names, own=own_names, train=train
            )
        self.class_names = found.classes
        self._root, self._files, self._labels = root, listing.files, None
        words = found.words
        if found.classes is not None:
            self._files = [f for f, n in zip(listing.files, listing.names, strict=True) if n]
            self._labels = [found.index[name] for name in listing.names if name]
            words += _left_out(listing.loose, "without a class left out")
        words += _left_out(listing.unread, "of kinds that are not read left out")
        self.labelling = printable(_said(words, self._labels is not None, layout, len(self._files)))
        self._cache = PixelCache()
        self._orders: dict[int, deque[int]] = {}
        self._chosen: dict[int, list[int]] = {}
        self._unreadable: list[DataError] = []
        self._bad: set[int] = set()
        self._scaled: dict[tuple[float, float], Path] = {}

    @property
    def identity(self) -> str:
        """Short hash of the images' names, with their folders below the split's, and of what a few
        of the files hold: the same wherever the folder lies."""
        names = "\0".join(file.relative_to(self._root).as_posix() for file in self._files)
        digest = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
        for file in self._files[:: -(-len(self._files) // READ_FOR_IDENTITY)]:
            with contextlib.suppress(OSError):  # one that cannot be read is left out later on
                digest.update(file.read_bytes())
        return digest.hexdigest()[:8]

    @property
    def labelled(self) -> bool:
        """Whether `batch` gives labels."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self._files)

    def subset(self, count: int, seed: int) -> list[int]:
        """The first `count` readable images of the seeded order; fewer only if there are no more.

        Raises:
            DataError: 1 % of the folder or more cannot be read.
        """
        if seed not in self._orders:
            positions = self._labels if self._labels is not None else len(self._files)
            self._orders[seed] = deque(nested_order(positions, seed))
            self._chosen[seed] = []
        chosen, coming = self._chosen[seed], self._orders[seed]
        while coming and len(chosen) < count:
            self._decode(list(islice(coming, min(TOGETHER, count - len(chosen)))))
            for _ in range(min(TOGETHER, count - len(chosen), len(coming))):
                index = coming.popleft()
                if self._readable(index):
                    chosen.append(index)
        return chosen[:count]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) float32, normalised, and labels (B,) int64 or None."""
        self._decode(indices)
        images = self._preprocessing.normalise(torch.stack([self._pixels(i) for i in indices]))
        if self._labels is None:
            return images, None
        return images, torch.tensor([self._labels[i] for i in indices], dtype=torch.int64)

    def path(self, index: int) -> Path:
        """File of an image."""
        return self._files[index]

    def _decode(self, indices: Sequence[int]) -> None:
        """Put what the cache lacks of these there, decoded in as many threads as torch has: Pillow
        works outside Python's lock. What cannot be read is left to whoever asks for it."""
        missing = [i for i in indices if i not in self._bad and self._cache.get(i) is None]
        threads = min(torch.get_num_threads(), len(missing))
        if threads < 2:
            return
        with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
            warnings.simplefilter("ignore")  # the filters of `read_image` are the whole process's
            for index, found in zip(missing, pool.map(self._tried, missing), strict=True):
                if found is not None:
                    self._keep(index, *found)

    def _tried(self, index: int) -> tuple[Tensor, tuple[float, float] | None] | None:
        try:
            return self._preprocessing.decoded_with_range(self._files[index])
        except DataError:
            return None

    def _pixels(self, index: int) -> Tensor:
        pixels = self._cache.get(index)
        if pixels is None:
            pixels, scaled = self._preprocessing.decoded_with_range(self._files[index])
            self._keep(index, pixels, scaled)
        return pixels

    def _keep(self, index: int, pixels: Tensor, scaled: tuple[float, float] | None) -> None:
        """Into the cache; warns once of images that were not scaled alike."""
        self._cache.put(index, pixels)
        if scaled is None or len(self._scaled) > 1:
            return
        self._scaled.setdefault(scaled, self._files[index])
        if len(self._scaled) > 1:
            alike = " and ".join(f"'{p}' from {a:g} to {b:g}" for (a, b), p in self._scaled.items())
            words = f"images are not scaled alike, {alike}; bring all to 8 bits by one scale"
            logger.warning("%s", printable(words))

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


def _trained(layout: Layout, root: Path, own: Source) -> Source | None:
    """The class names of the training split, where there is one."""
    classes = layout.classes()
    if classes is None:
        return None
    return own if classes == root else source_of(classes)


def _left_out(files: Sequence[Path], why: str) -> str:
    """Which images are left out, in words; warned of as well."""
    if not files:
        return ""
    words = f"{len(files)} {why}, the first is '{files[0]}'"
    logger.warning("%s", printable(f"images: {words}"))
    return f"; {words}"


def _said(words: str, labelled: bool, layout: Layout, count: int) -> str:
    """How labels were understood, and which images these are where a folder was split."""
    said = f"labels: {words}" if labelled else f"label-free: {words}"
    if layout.shared:
        said += (
            f"; '{layout.val}' is split by seed {HELD_OUT_SEED}, a fifth of it to judge on and the"
            f" rest to train on: {count} images here"
        )
    return said
