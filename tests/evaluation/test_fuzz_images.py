"""Damaged and odd image files: an array or one sentence, soon and in little memory."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.fuzz

COUNT = 200
LIMIT_S, LIMIT_BYTES = 5, 10**9
SAVES = [
    ("RGB", "jpg", {}), ("RGB", "jpg", {"progressive": True}), ("L", "jpg", {}),
    ("CMYK", "jpg", {}), ("RGB", "png", {}), ("RGBA", "png", {}), ("LA", "png", {}),
    ("P", "png", {}), ("1", "png", {}), ("I;16", "png", {}), ("P", "gif", {}), ("RGB", "webp", {}),
    ("RGBA", "webp", {"lossless": True}), ("RGB", "bmp", {}), ("RGB", "ppm", {}), ("L", "pgm", {}),
    ("RGB", "tif", {}), ("RGB", "tif", {"compression": "tiff_lzw"}),
    ("CMYK", "tif", {"compression": "tiff_adobe_deflate"}), ("F", "tif", {}), ("I;16", "tif", {}),
    ("I", "tif", {}), ("LAB", "tif", {}), ("YCbCr", "tif", {}),
    ("1", "tif", {"compression": "group4"}),
]  # fmt: skip
CHILD = """
import json, pathlib, resource, signal, sys, time
from autotok.errors import DataError
from autotok.evaluation.preprocessing import Preprocessing

def late(*_):
    raise SystemExit("took too long")

signal.signal(signal.SIGALRM, late)
signal.signal(signal.SIGPROF, late)
preprocessing = Preprocessing(3, 224, 224)
preprocessing.decoded(pathlib.Path(sys.argv[1]) / "warm.png")
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(pathlib.Path(sys.argv[1], "damaged").iterdir()):
    signal.setitimer(signal.ITIMER_PROF, float(sys.argv[2]))  # of the processor's time
    signal.setitimer(signal.ITIMER_REAL, 60)  # what waits takes none of it
    start = time.process_time()
    try:
        found = preprocessing.decoded(path)
        said = None if found.shape == (3, 224, 224) and str(found.dtype) == "torch.uint8" else "bad"
    except DataError as error:
        said = str(error)
        said = "read" if said.isprintable() else f"bad: {said}"
    except BaseException as error:
        said = f"foreign: {error!r}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
    print(json.dumps([path.name, said, round(time.process_time() - start, 2), grown]), flush=True)
"""


def picture(mode: str, rng: np.random.Generator) -> Image.Image:
    grey = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(grey[:, :, 0].astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.frombytes("LAB", (50, 40), grey.tobytes())
    return Image.fromarray(grey).convert(mode)


def encoded(mode: str, suffix: str, options: dict[str, object], seed: int) -> bytes:
    stream = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix)
    picture(mode, np.random.default_rng(seed)).save(stream, kind, **options)
    return stream.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Truncated, flipped, overwritten with extremes, or with a piece doubled or cut out."""
    data, kind = bytearray(content), rng.randrange(5)
    at = rng.randrange(min(len(data), 200) if rng.random() < 0.7 else len(data))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at : at + 4] = rng.choice(
            [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]
        )
    elif kind == 3:
        data[at:at] = data[at : at + rng.randrange(1, 100)] * rng.randrange(1, 50)
    else:
        del data[at : at + rng.randrange(1, 100)]
    return bytes(data)


def bomb(mode: str, side: int = 10_000) -> bytes:
    """A small file of 100 million pixels."""
    stream = io.BytesIO()
    if mode in ("F", "CMYK"):
        Image.new(mode, (side, side)).save(stream, "TIFF", compression="tiff_adobe_deflate")
    else:
        Image.new(mode, (side, side)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def odd(folder: Path) -> Iterator[Path]:
    """Files that are whole, yet no images to decode without a thought."""
    for mode in ("RGB", "RGBA", "L", "I;16", "F", "CMYK"):
        yield folder / f"bomb-{mode.replace(';', '')}.png"
        (folder / f"bomb-{mode.replace(';', '')}.png").write_bytes(bomb(mode))
    for width, height in ((100_000, 1), (1, 100_000), (30_000, 3_000), (65_000, 40)):
        yield folder / f"line-{width}x{height}.png"
        Image.new("RGB", (width, height)).save(folder / f"line-{width}x{height}.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "nowhere.png").symlink_to(folder / "nothing")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.gif").write_bytes(b"")
    (folder / "\x1b[31m\n\udcff.jpg").write_bytes(b"x")
    (folder / "plain.ppm").write_text("P3\n10000 10000\n255\n" + "1 2 3 " * 1000, "utf-8")
    (folder / "script.tif").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "utf-8")
    Image.fromarray(np.full((9, 9), np.inf, np.float32)).save(folder / "infinite.tif")
    yield from (folder / name for name in ("pipe.jpg", "zero.png", "nowhere.png", "folder.jpg"))
    yield from (folder / name for name in ("empty.gif", "\x1b[31m\n\udcff.jpg", "plain.ppm"))
    yield from (folder / name for name in ("script.tif", "infinite.tif"))


def test_two_hundred_damaged_images_end_in_an_array_or_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    picture("RGB", np.random.default_rng(0)).save(tmp_path / "warm.png")
    made = len(list(odd(folder)))
    for number in range(COUNT - made):
        mode, suffix, options = SAVES[number % len(SAVES)]
        rng = random.Random(number)
        content = encoded(mode, suffix, options, number)
        (folder / f"{number:03}.{suffix}").write_bytes(damaged(content, rng))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, str(tmp_path), str(LIMIT_S)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(found) == COUNT
    assert [row for row in found if row[1] not in (None, "read")] == []
    assert [row for row in found if row[3] > LIMIT_BYTES] == []
    assert {row[1] for row in found} == {None, "read"}
