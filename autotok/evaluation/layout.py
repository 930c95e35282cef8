"""What lies in an image folder: its splits, its images, and the class names beside them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotok.errors import DataError

from .classes import Source
from .order import nested_order
from .preprocessing import open_regular

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff",
     ".gif")
)  # fmt: skip
UNREAD = frozenset(
    (".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".pbm", ".pnm", ".tga", ".psd", ".exr",
     ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm")
)  # fmt: skip
"""Of images that are left out, which is said."""
SPLITS = {"val": ("val", "validation", "valid", "test"), "train": ("train", "training")}
"""Names of their folders, whatever the case, the first that is there."""
LABELS = "labels.csv"
HEADERS = frozenset({"file", "filename", "image", "path"})
# ImageNet's training images are 1.3 million
MAX_FILES = 5_000_000
MAX_LABELS_BYTES = 512 * 2**20
HELD_OUT_SHARE, HELD_OUT_SEED = 0.2, 0
"""Of a train folder without a val folder. One seed always, not the search's: what one command
trains on, no other may judge on."""


@dataclass(frozen=True)
class Layout:
    """Where a data set has its splits."""

    val: Path | None
    train: Path | None
    """None where no folder is for training."""

    @classmethod
    def of(cls, data: Path | None, training: Path | None = None) -> Layout:
        """The splits of a data folder, and of another one for training where that is named.

        Raises:
            DataError: a folder is missing or may be a split or a class, or training images would
                be judged on.
        """
        splits = {} if data is None else _splits(require_folder(data))
        train = splits.get("train")
        val = splits.get("val") or train or data
        if training is not None:
            train = _splits(require_folder(training)).get("train", training)
        if val is not None and train is not None and not _same(val, train):
            inner, outer = val.resolve(), train.resolve()
            if inner in outer.parents or outer in inner.parents:
                raise DataError(
                    f"training images in '{train}' and images to judge on in '{val}' overlap: put"
                    " them into folders 'train' and 'val', or name the first twice to have a fifth"
                    " of it held out"
                )
        return cls(val, train)

    @property
    def shared(self) -> bool:
        """Whether one folder is both, of which a part is held out."""
        return self.val is not None and self.train is not None and _same(self.val, self.train)

    def classes(self) -> Path | None:
        """The folder whose classes are the data set's, apart from the images' own."""
        if self.train is not None or self.val is None or self.val.name.lower() not in SPLITS["val"]:
            return self.train
        beside = self.val.absolute().parent
        return _named(beside, _sub_folders(beside), "train")


@dataclass(frozen=True)
class Listing:
    """The images below a folder."""

    files: list[Path]
    """Sorted."""
    names: list[str | None]
    """The class name of each, as a folder or labels file gives it; None without."""
    source: Source
    unread: tuple[Path, ...] = ()
    """Images of other kinds, by their suffix."""

    @property
    def loose(self) -> list[Path]:
        """Images that have no class name."""
        return [file for file, name in zip(self.files, self.names, strict=True) if name is None]

    def part(self, held_out: bool) -> Listing:
        """The fifth that is held out for judging, of every class, or the rest.

        Raises:
            DataError: a single image cannot be split.
        """
        if len(self.files) < 2:
            raise DataError(f"'{self.files[0]}' is the only image, too few to train and to judge")
        groups = np.unique([name or "" for name in self.names], return_inverse=True)[1]
        order = nested_order(groups.tolist(), HELD_OUT_SEED)
        count = max(1, round(HELD_OUT_SHARE * len(order)))
        chosen = sorted(order[:count] if held_out else order[count:])
        files, names = [self.files[i] for i in chosen], [self.names[i] for i in chosen]
        return Listing(files, names, self.source, self.unread)


def require_folder(folder: Path) -> Path:
    """The folder, which exists.

    Raises:
        DataError: missing, or a file.
    """
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"data folder '{folder}' {kind}; give a folder of images, or one of: demo, digits,"
            " cifar10"
        )
    return folder


def list_images(root: Path) -> Listing:
    """The images below a folder, with their class names.

    These are the second column of its `labels.csv` where there is one, else the folders directly
    below it.

    Raises:
        DataError: no images, too many, or a labels file that does not fit them.
    """
    found = sorted(_image_files(root, SUFFIXES | UNREAD))
    files = [file for file in found if file.suffix.lower() in SUFFIXES]
    unread = tuple(file for file in found if file.suffix.lower() in UNREAD)
    if not files and unread:
        raise DataError(
            f"folder '{root}' holds no images that are read, {len(unread)} are of other kinds such"
            f" as '{unread[0].name}'; make them one of {', '.join(sorted(SUFFIXES))}"
        )
    if not files:
        raise DataError(
            f"folder '{root}' holds no images ({', '.join(sorted(SUFFIXES))}); give a folder of"
            " images, or of one sub-folder per class"
        )
    rows = _read_labels(root / LABELS) if (root / LABELS).exists() else None
    if rows is None:
        parts = [file.relative_to(root).parts for file in files]
        names = [p[0] if len(p) > 1 else None for p in parts]
    else:
        known = {file.relative_to(root).as_posix(): i for i, file in enumerate(files)}
        absent = [name for name in rows if name not in known]
        if absent:
            raise DataError(
                f"'{root / LABELS}' names '{absent[0]}' ({len(absent)} such), which is no image of"
                " its folder; write paths from there, or take the row out"
            )
        names = [rows.get(name) for name in known]
    return Listing(
        files, names, source_of(root, {name for name in names if name is not None}), unread
    )


def source_of(root: Path, filled: set[str] | None = None) -> Source:
    """The class names of a split's folder; `filled` are those that have images, where known."""
    if (root / LABELS).exists():
        found = set(_read_labels(root / LABELS).values()) if filled is None else filled
        return Source(tuple(sorted(found)), f"'{LABELS}' of '{root.name}'")
    if filled is not None and not filled:
        return Source((), f"folders of '{root.name}'")
    folders = set(_sub_folders(root))
    empty = folders - (folders if filled is None else filled)
    return Source(tuple(sorted(folders)), f"class folders of '{root.name}'", tuple(sorted(empty)))


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of a folder's splits; none where a class has the name of one.

    Raises:
        DataError: they may be either.
    """
    inner = _sub_folders(folder)
    named = {split: _named(folder, inner, split) for split in SPLITS}
    found = {split: path for split, path in named.items() if path is not None}
    beside = _class_beside(folder, inner) if found else None
    if beside is None:
        return found
    nested = [bool(_sub_folders(path)) for path in found.values()]
    if nested == [False]:
        return {}
    if nested == [True, True]:
        return found
    raise DataError(
        f"'{next(iter(found.values()))}' may be a split, or a class as '{beside.name}' beside it"
        " is; give the images to judge on as --data and those to train on as --train-data, or"
        " rename the class"
    )


def _named(folder: Path, inner: list[str], split: str) -> Path | None:
    """The folder of a split, among those in a folder.

    Raises:
        DataError: two may be it.
    """
    alike = ([name for name in inner if name.lower() == n] for n in SPLITS[split])
    found = next(filter(None, alike), [])
    if len(found) > 1:
        raise DataError(
            f"folders '{found[0]}' and '{found[1]}' of '{folder}' differ by case only, and either"
            f" may be the split '{split}'; rename one of them"
        )
    return folder / found[0] if found else None


def _class_beside(folder: Path, inner: list[str]) -> Path | None:
    """A folder of images that is no split by its name."""
    splits = {name for names in SPLITS.values() for name in names}
    others = (folder / name for name in inner if name.lower() not in splits)
    return next((other for other in others if any(_image_files(other))), None)


def _sub_folders(folder: Path) -> list[str]:
    """Names of the visible ones."""
    inner = next(os.walk(folder), (folder, [], []))[1]
    return sorted(name for name in inner if not name.startswith("."))


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def _image_files(root: Path, suffixes: frozenset[str] = SUFFIXES) -> Iterator[Path]:
    """Image files below `root`, by suffix; hidden ones left out, links followed once."""
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
            if name.startswith(".") or Path(name).suffix.lower() not in suffixes:
                continue
            count += 1
            if count > MAX_FILES:
                raise DataError(
                    f"folder '{root}' holds more than {MAX_FILES} images; give a smaller one"
                )
            yield Path(folder) / name


def _read_labels(path: Path) -> dict[str, str]:
    """File -> class name of a labels file; a first row such as `file,class` is its header.

    Raises:
        DataError: not readable, a row that is not two columns, or one file in two classes.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_LABELS_BYTES + 1)
        if len(content) > MAX_LABELS_BYTES:
            raise ValueError("it is larger than 512 MB")
        rows = list(csv.reader(content.decode("utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"labels '{path}' cannot be read ({reason}); give CSV") from error
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[0].lower() in HEADERS):
            continue
        if len(cells) != 2 or not all(cells):
            raise DataError(f"labels '{path}', line {number}: write file,class")
        name = Path(cells[0]).as_posix()
        if found.setdefault(name, cells[1]) != cells[1]:
            raise DataError(f"labels '{path}', line {number}: '{name}' is in two classes")
    return found
