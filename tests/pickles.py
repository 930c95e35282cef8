"""Whether a file is a pickle, or an archive with one in it, as `torch.save` writes."""

import zipfile
from pathlib import Path

__all__ = ["is_pickle", "pickles_in"]


def is_pickle(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
    with path.open("rb") as file:
        start = file.read(2)
    return start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def pickles_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and is_pickle(path)]
