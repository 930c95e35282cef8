"""Runs the exported model beside this file on images: python infer.py IMAGE ...

Needs numpy, pillow and onnxruntime, nothing else. Prints one line per image: the file, then the
most likely classes with their probabilities. `--logits FILE.npy` also writes all outputs. An image
that cannot be used is named and left out (NaN among the outputs); the exit status is 2 then.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageOps
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"infer.py: {error}; run: pip install numpy pillow onnxruntime\n")
    sys.exit(2)

Array = NDArray[np.float32]
AnyArray = NDArray[Any]
PartRunner = Callable[[Sequence[AnyArray]], list[AnyArray]]
Spec = dict[str, Any]
CRITERIA = ("confidence", "entropy", "patience", "patient_confident")
"""Rules by which an image stops after a part; see `Stopping`."""
_SIDES = ("height", "width")
_AGAIN = "copy the whole folder again, or export anew"
EXACT_INT8 = ("session.x64quantprecision", "1")
"""Processors without VNNI would else add int8 products up in 16 bits, which overflow."""
MAX_RESIZED_PIXELS = 50_000_000
HERE = Path(__file__).resolve().parent


class Refused(Exception):
    """Something that cannot be used; the message is one sentence for the user."""


def read_spec(folder: Path) -> Spec:
    """What `preprocessing.json` says.

    Raises:
        Refused: it is missing or damaged.
    """
    return _checked(folder / "preprocessing.json", _check_spec)


def _checked(path: Path, check: Callable[[Spec], None]) -> Spec:
    try:
        found: Spec = json.loads(path.read_text("utf-8"))
        check(found)
    except KeyError as error:
        raise Refused(f"'{path}' lacks the key {error}; {_AGAIN}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Refused(f"'{path}' cannot be read ({error}); {_AGAIN}") from error
    return found


def _check_spec(spec: Spec) -> None:
    batch, channels, *size = spec["input"]["shape"]
    classes, names, file = spec["output"]["classes"], spec.get("class_names", []), spec["file"]
    resize, crop, sides = spec["resize"], spec["crop"], [spec["crop"][s] for s in _SIDES]
    right = {
        "file": isinstance(file, str) and Path(file).name == file,
        "input.shape": channels in (1, 3) and (batch == "dynamic" or _lengths([batch], 1)),
        "output.classes": type(classes) is int and classes >= 0,
        "resize.rule": resize["rule"] in ("center", "squash", "border"),
        "resize.to": _lengths(resize["to"], 2),
        "resize.interpolation": resize["interpolation"].upper() in Image.Resampling.__members__,
        "crop": _lengths(sides, 2) and crop.get("rounding", "nearest") in ("nearest", "down"),
        "crop or shrink": _lengths(size, 2) and (spec.get("shrink") or {"to": sides})["to"] == size,
        "mean": len(spec["mean"]) == channels and all(map(math.isfinite, spec["mean"])),
        "std": len(spec["std"]) == channels and all(0 < value < math.inf for value in spec["std"]),
    }
    if wrong := ", ".join(key for key in right if not right[key]):
        raise ValueError(f"its {wrong} cannot be")
    if len(names) not in (0, classes) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names are not one for each class")


def _lengths(values: list[Any], count: int) -> bool:
    return len(values) == count and all(type(value) is int and value > 0 for value in values)


def read_picture(path: Path) -> Image.Image:
    """The image, upright.

    Raises:
        Refused: it cannot be read, or holds more than 8 bits a channel.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            image: Image.Image = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow raises whatever a damaged file leads it to
        raise Refused(f"image '{path}' cannot be read ({error}); give another file") from error
    if image.mode == "F" or image.mode.startswith("I"):
        raise Refused(f"image '{path}' has more than 8 bits a channel; convert it to 8 bits")
    return image


def prepare(image: Image.Image, spec: Spec) -> Array:
    """(1, channels, height, width), ready for the model.

    Raises:
        Refused: its sides differ so much that resizing would give over 50 million pixels.
    """
    to = resized(image.size, spec)
    if to[0] * to[1] > MAX_RESIZED_PIXELS:
        raise Refused(
            f"{image.width} x {image.height} pixels would be {to[0]} x {to[1]} when resized for the"
            f" model, of {MAX_RESIZED_PIXELS / 1e6:.0f} million pixels allowed; crop it"
        )
    height, width = (spec["crop"][side] for side in _SIDES)
    channels = spec["input"]["shape"][1]
    shrink = spec.get("shrink")  # of a model that runs on smaller images than it was made for
    mode = "L" if channels == 1 else "RGB"
    if image.mode not in ("L", "RGB"):  # transparency and palettes are dropped
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    image = image if image.mode == mode else image.convert(mode)
    kind = Image.Resampling[spec["resize"]["interpolation"].upper()]
    image = cropped(image.resize(to, kind), width, height, spec)
    pixels = np.array(image, np.float32).reshape(height, width, channels) / np.float32(255)
    mean, std = (np.array(spec[name], np.float32) for name in ("mean", "std"))
    found: Array = ((pixels - mean) / std).transpose(2, 0, 1)[None]
    return resized_last(found, *shrink["to"]) if shrink else found


def resized_last(images: Array, height: int, width: int) -> Array:
    """Bilinear between the four nearest pixels, corners on corners, no antialiasing."""
    for axis, size in ((2, height), (3, width)):
        places = np.linspace(0, images.shape[axis] - 1, size, dtype=np.float32)
        first = np.minimum(places.astype(np.int64), max(0, images.shape[axis] - 2))
        second = np.minimum(first + 1, images.shape[axis] - 1)
        shape = [-1 if a == axis else 1 for a in range(4)]
        share = (places - first).astype(np.float32).reshape(shape)
        low, high = images.take(first, axis), images.take(second, axis)
        images = low * (1 - share) + high * share
    return images


def resized(size: tuple[int, int], spec: Spec) -> tuple[int, int]:
    """(width, height) before the crop."""
    (to_h, to_w), rule = spec["resize"]["to"], spec["resize"]["rule"]
    width, height = size
    if rule == "squash":
        return to_w, to_h
    if rule == "border":
        ratio = max(width / to_w, height / to_h)
    elif to_w != to_h:
        ratio = min(width / to_w, height / to_h)
    elif width <= height:
        return to_w, int(to_w * height / width)
    else:
        return int(to_w * width / height), to_w
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def cropped(image: Image.Image, width: int, height: int, spec: Spec) -> Image.Image:
    """The central part; what is missing is filled as the resize rule says."""
    have_w, have_h = image.size
    if have_w < width or have_h < height:
        border = spec["resize"]["rule"] == "border"
        fill = [round(255 * value) if border else 0 for value in spec["mean"]]
        colour = tuple(fill) if image.mode == "RGB" else fill[0]
        canvas = Image.new(image.mode, (max(have_w, width), max(have_h, height)), colour)
        canvas.paste(image, (max(0, (width - have_w) // 2), max(0, (height - have_h) // 2)))
        image, (have_w, have_h) = canvas, canvas.size
    down = spec["crop"].get("rounding", "nearest") == "down"
    rest = (have_w - width, have_h - height)
    left, top = (side // 2 if down else round(side / 2.0) for side in rest)
    return image.crop((left, top, left + width, top + height))


def open_model(folder: Path, spec: Spec) -> Any:
    """The session of the model file.

    Raises:
        Refused: of another input size; see `open_session`.
    """
    path = folder / spec["file"]
    session = open_session(path)
    found, wanted = session.get_inputs()[0].shape[1:], spec["input"]["shape"][1:]
    if list(found) != list(wanted):
        raise Refused(
            f"'{path}' takes images of {found}, and preprocessing.json makes {wanted}; the two are"
            " of different exports: copy the whole folder again"
        )
    return session


def open_session(path: Path) -> Any:
    """The session of a file.

    Raises:
        Refused: no runtime, no file, or a damaged one.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused("onnxruntime is not installed; run: pip install onnxruntime") from error
    if not path.is_file():
        raise Refused(f"'{path}' is not there; {_AGAIN}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(*EXACT_INT8)
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # a runtime's own types are private
        reason = " ".join(str(error).split())[:160]
        raise Refused(
            f"'{path}' cannot be opened by onnxruntime {onnxruntime.__version__} ({reason}); copy"
            " it again, or install a newer onnxruntime"
        ) from error
    return session


@dataclass
class Stopping:
    """Whether an image stops, asked part after part; remembers what patience counts."""

    rule: Spec
    """Of the file that names the parts."""
    number: int = 0
    counter: int = 0
    named: int = -1

    def stops(self, logits: Array) -> bool:
        """Whether the next part's logits (classes,) are the answer."""
        limits = self.rule["thresholds"] or [0.0]  # one for all, or one each
        limit = np.float32(limits[min(self.number, len(limits) - 1)])
        self.number += 1
        shifted = logits - logits.max()
        logs = shifted - np.log(np.exp(shifted).sum())
        sure, spread = np.exp(logs).max(), -(np.exp(logs) * logs).sum()
        criterion = self.rule["criterion"]
        if criterion == "confidence":
            return bool(sure >= limit if self.rule.get("at_threshold") else sure > limit)
        if criterion == "entropy":
            return bool(spread < limit)
        if criterion == "patience":
            named = int(logits.argmax())
            self.counter, self.named = self.counter + 1 if named == self.named else 1, named
        else:
            self.counter = self.counter + 1 if spread < limit else 0
        return bool(self.counter == self.rule["patience"])


@dataclass
class Chain:
    """The parts of a model that stops early, and when it does."""

    parts: list[tuple[PartRunner, list[str], list[str]]]
    """What runs each, the names that it takes, and those that it gives."""
    rule: Spec

    def answer(self, image: Array) -> tuple[Array, int]:
        """(logits (1, classes) of an image (1, C, H, W), number of the part that gave them)."""
        values: dict[str, AnyArray] = {"images": image}
        stopping, last = Stopping(self.rule), len(self.parts) - 1
        for number, (run, takes, gives) in enumerate(self.parts):
            values.update(zip(gives, run([values[name] for name in takes]), strict=True))
            if number == last or stopping.stops(values["logits"][0]):
                break
        return values["logits"], number


def read_chain(path: Path) -> Spec:
    """What the file says that names the parts of a model.

    Raises:
        Refused: it is missing or damaged.
    """
    return _checked(path, _check_chain)


def _check_chain(found: Spec) -> None:
    parts, known = found["parts"], {"images"}
    for part in parts:
        if not isinstance(part["file"], str) or Path(part["file"]).name != part["file"]:
            raise ValueError(f"a part's file is {part['file']!r}, and no name of a file beside it")
        missing = [name for name in part["takes"] if name not in known]
        if missing:
            raise ValueError(f"'{part['file']}' takes {missing}, which no part before it gives")
        if "logits" not in part["gives"]:
            raise ValueError(f"'{part['file']}' gives no logits")
        known.update(part["gives"])
    if len(parts) < 2:
        raise ValueError(f"it names {len(parts)} parts, and two are the fewest")
    _check_stop(found["stop"], len(parts))


def _check_stop(rule: Spec, parts: int) -> None:
    criterion, limits = rule["criterion"], rule["thresholds"]
    if criterion not in CRITERIA:
        raise ValueError(f"stop criterion {criterion!r} is none of {', '.join(CRITERIA)}")
    counts = {0} if criterion == "patience" else {1, parts - 1}
    if len(limits) not in counts or not all(type(t) in (int, float) for t in limits):
        raise ValueError(f"'{criterion}' over {parts} parts cannot have the thresholds {limits!r}")
    counts_parts = criterion in ("patience", "patient_confident")
    if counts_parts and not (type(rule["patience"]) is int and rule["patience"] > 0):
        raise ValueError(f"patience is {rule['patience']!r}, and no whole number above 0")


def open_chain(folder: Path, spec: Spec) -> Chain:
    """The parts that the model file names, each in a session of its own.

    Raises:
        Refused: a file is missing, damaged, or of another export.
    """
    found = read_chain(folder / spec["file"])
    shapes, parts = {"images": list(spec["input"]["shape"])}, []
    for part in found["parts"]:
        session, takes, gives = open_session(folder / part["file"]), part["takes"], part["gives"]
        entering = {value.name: list(value.shape) for value in session.get_inputs()}
        leaving = {value.name: list(value.shape) for value in session.get_outputs()}
        if entering != {name: shapes[name] for name in takes} or list(leaving) != gives:
            raise Refused(
                f"'{folder / part['file']}' takes {entering} and gives {list(leaving)}, and"
                f" '{spec['file']}' says otherwise; they are of different exports: {_AGAIN}"
            )
        shapes |= leaving
        parts.append((part_runner(session), takes, gives))
    return Chain(parts, found["stop"])


def part_runner(session: Any) -> PartRunner:
    """What runs a part in a session."""
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))


def logits_of(session: Any, images: Array) -> Array:
    """(n, classes) of prepared images (n, C, H, W), whatever batch the file takes."""
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    batch = batch if isinstance(batch, int) else len(images)
    wanted = len(images)
    full = images[np.arange(math.ceil(wanted / batch) * batch) % wanted]
    chunks = [full[i : i + batch] for i in range(0, len(full), batch)]
    found: Array = np.concatenate([session.run(None, {name: chunk})[0] for chunk in chunks])
    return found[:wanted]


def open_any(folder: Path, spec: Spec) -> Callable[[Array], tuple[Array, list[str]]]:
    """What gives logits (n, classes) of prepared images, and what there is to say of each.

    Raises:
        Refused: see `open_model` and `open_chain`.
    """
    if not spec["file"].endswith(".json"):
        session = open_model(folder, spec)
        return lambda images: (logits_of(session, images), [""] * len(images))
    chain = open_chain(folder, spec)

    def run(images: Array) -> tuple[Array, list[str]]:
        answers = [chain.answer(image[None]) for image in images]
        notes = [f"\tby part {number + 1} of {len(chain.parts)}" for _, number in answers]
        return np.concatenate([logits for logits, _ in answers]), notes

    return run


def line(path: Path, logits: Array, names: list[str] | None, top: int) -> str:
    """What is printed of one image."""
    if not top:
        return f"{path}\t{len(logits)} features"
    shifted = np.exp(logits - logits.max())
    chances = shifted / shifted.sum()
    best = np.argsort(-logits)[:top]
    words = [f"{names[i] if names else f'class {i}'} {100 * chances[i]:.1f}%" for i in best]
    return f"{path}\t{', '.join(words)}"


def prepared(path: Path, spec: Spec) -> Array | None:
    """What `prepare` makes of an image file; None where it cannot be used, which is said."""
    try:
        image = read_picture(path)
        try:
            return prepare(image, spec)
        except Refused as error:
            raise Refused(f"image '{path}': {error}") from error
    except Refused as error:
        sys.stderr.write(f"infer.py: {error}\n")
        return None


def answers(
    paths: list[Path], spec: Spec, run: Callable[[Array], tuple[Array, list[str]]], top: int
) -> list[Array | None]:
    """Logits (classes,) of each image, printed as they come: a batch of images is held at a time.
    None of one that cannot be used."""
    batch, found = spec["input"]["shape"][0], list[Array | None]()
    step = batch if isinstance(batch, int) else 1
    for start in range(0, len(paths), step):
        chunk = paths[start : start + step]
        images = [prepared(path, spec) for path in chunk]
        usable = [image for image in images if image is not None]
        told = iter(zip(*run(np.concatenate(usable)), strict=True) if usable else ())
        for path, image in zip(chunk, images, strict=True):
            row, note = (None, "") if image is None else next(told)
            found.append(row)
            if row is not None:
                sys.stdout.write(line(path, row, spec.get("class_names"), top) + note + "\n")
    return found


def write_logits(path: Path, rows: list[Array | None]) -> None:
    """Write (n, classes), NaN for images that were left out.

    Raises:
        Refused: the file cannot be written.
    """
    like = next((row for row in rows if row is not None), None)
    if like is None:
        return
    empty = np.full_like(like, np.nan)
    try:
        np.save(path, np.stack([empty if row is None else row for row in rows]))
    except OSError as error:
        raise Refused(f"--logits '{path}' cannot be written ({error}); name another") from error


def infer_files(arguments: list[str]) -> int:
    """Runs the model on the files named; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--top", type=int, default=3, help="classes to print")
    parser.add_argument("--logits", type=Path, help="write all outputs to this .npy file")
    given = parser.parse_args(arguments)
    try:
        if given.top < 1:
            raise Refused(f"--top is {given.top}; give 1 or more classes to print")
        path = given.logits
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            lack = "it must be a file in a folder that is there"
            raise Refused(f"--logits '{path}' cannot be written: {lack}")
        spec = read_spec(HERE)
        top = given.top if spec["output"]["classes"] else 0
        rows = answers(given.images, spec, open_any(HERE, spec), top)
        if path is not None:
            write_logits(path, rows)
    except Refused as error:
        sys.stderr.write(f"infer.py: {error}\n")
        return 2
    return 2 if any(row is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(infer_files(sys.argv[1:]))
