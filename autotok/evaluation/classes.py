"""Which class of the model a folder or a row of a labels file means: one list per data set."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotok.errors import DataError, nearest, printable
from autotok.names import is_numbered

from .preprocessing import open_regular

MAX_NAMES_BYTES = 16 * 2**20
NAMED = 3
SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Labelling:
    """How the class names found beside images were understood."""

    classes: tuple[str, ...] | None
    """The model's classes by name, in order; None where there are no labels."""
    index: Mapping[str, int] = field(default_factory=dict)
    """Name as found -> class."""
    words: str = ""
    """How, or why not, in words."""


@dataclass(frozen=True)
class Source:
    """Class names as a split of a data set has them."""

    names: tuple[str, ...]
    """Different ones, sorted."""
    where: str
    """What they were found as: "class folders of 'train'"."""
    empty: tuple[str, ...] = ()
    """Those of the names that have no images."""


def understand(
    found: Source,
    num_classes: int,
    *,
    given: Path | None = None,
    own: Sequence[str] = (),
    train: Source | None = None,
) -> Labelling:
    """What the names mean: by the file given, else by the first list that most of them are in: the
    model's own (whatever the case, spaces, `_` and `-`), ImageNet's synsets, class indices, and the
    names of the training split.

    Without any of these, names as many as the classes of a model that does not name them are
    numbered in alphabetical order, as ImageFolder does; other images are label-free.

    Args:
        given: File of class names, see `read_class_names`.
        own: The model's own class names.
        train: Of the training split, where there is one.

    Raises:
        DataError: a name that is not in the list that the others are in; the message names it.
    """
    if num_classes < 2:
        return Labelling(None, words="the model gives features, not classes")
    if given is not None:
        return _by_file(found, num_classes, given)
    if not found.names:
        return Labelling(None, words="no class folders and no labels.csv say what the images show")
    reference = train or found
    everywhere = {*reference.names, *found.names}
    own = () if is_numbered(own) or len(own) != num_classes else own
    for names, words in _lists(everywhere, num_classes, own):
        if 2 * len(everywhere & names.keys()) > len(everywhere):
            _refuse_strange(everywhere - names.keys(), names, num_classes, words)
            return _labelling(found, names, num_classes, f"{words}, by {found.where}", own)
    if own and len(reference.names) == num_classes:
        return Labelling(
            None,
            words=f"{reference.where} are {_quoted(reference.names)}, and the model calls its"
            f" classes {_quoted(own)}; --class-names FILE would say which they are",
        )
    if len(reference.names) == num_classes:
        return _by_rank(found, reference, train is not None)
    hollow = f", without images {_quoted(reference.empty)}" if reference.empty else ""
    return Labelling(
        None,
        words=f"{reference.where} are {len(reference.names)}{hollow}, the model's classes"
        f" {num_classes}; --class-names FILE would say which they are",
    )


def own_classes(found: Source, train: Source | None) -> Labelling:
    """The labels of images by their own class names, which are numbered as ImageFolder does.

    Raises:
        DataError: images to judge on are of a class that the training split has none of.
    """
    reference = train or found
    if len(reference.names) < 2:
        return Labelling(None, words="no class folders and no labels.csv tell two classes apart")
    strange = sorted(set(found.names) - set(reference.names))
    if strange:
        raise DataError(
            f"class '{strange[0]}' ({len(strange)} such) has images to judge on and none to train"
            " on; take it out, or add training images of it"
        )
    return _by_rank(found, reference, trained=True)


def contradict(own: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a model that names its classes gives most of them another name than `names` does."""
    if is_numbered(own) or len(own) != len(names):
        return False
    same = sum(_plain(mine) == _plain(name) for mine, name in zip(own, names, strict=True))
    return 2 * same < len(names)


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """The model's class names in order, from a file: one a line, or JSON.

    JSON is a list of names, or an object of index to name or of name to index.

    Raises:
        DataError: unreadable, not a name for each of the `num_classes` classes, or one name twice.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_NAMES_BYTES + 1)
        if len(content) > MAX_NAMES_BYTES:
            raise ValueError("it is larger than 16 MB")
        text = content.decode("utf-8-sig")
        names = _json_names(json.loads(text)) if path.suffix.lower() == ".json" else _lines(text)
    except FileNotFoundError:
        raise DataError(f"class names '{path}' do not exist; give a file of one a line") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
        raise DataError(
            f"class names '{path}' cannot be read ({reason}); give one a line, or JSON of index to"
            " name"
        ) from error
    if len(names) != num_classes:
        raise DataError(
            f"class names '{path}' are {len(names)}, but the model has {num_classes} classes; give"
            " one for each, in the model's order"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"class names '{path}' have '{twice}' twice; each class needs its own")
    return names


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _json_names(data: object) -> tuple[str, ...]:
    """Names in order from a list, or from an object in either direction."""
    if isinstance(data, dict) and data and all(type(value) is int for value in data.values()):
        data = {str(index): name for name, index in data.items()}
    if isinstance(data, dict):
        if set(data) != {str(i) for i in range(len(data))}:
            raise ValueError(f"its indices are not 0 to {len(data) - 1}")
        data = [data[str(i)] for i in range(len(data))]
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ValueError("it is neither a list of names nor an object of index to name")
    return tuple(data)


def _by_file(found: Source, num_classes: int, given: Path) -> Labelling:
    listed = read_class_names(given, num_classes)
    names = {name: i for i, name in enumerate(listed)}
    if not found.names:
        raise DataError(
            f"class names '{given}' name what no class folders and no labels.csv say of the images;"
            " leave them out, or sort the images"
        )
    indices = _indices(num_classes, found.names)
    if not names.keys() & set(found.names) and set(found.names) <= indices.keys():
        names = indices
    words = f"names from '{given}'"
    _refuse_strange(set(found.names) - names.keys(), names, num_classes, words)
    return _labelling(found, names, num_classes, f"{words}, by {found.where}", listed)


def _lists(
    names: Iterable[str], num_classes: int, own: Sequence[str]
) -> Iterable[tuple[dict[str, int], str]]:
    """The lists that names can be looked up in, with what they are called."""
    if own:
        twice = sorted(name for name in set(names) if own.count(name) > 1)
        more = f", of which '{twice[0]}' is more than one" if twice else ""
        yield _own_list(names, own), f"the model's own class names{more}"
    if any(SYNSET.fullmatch(name) for name in names):
        from autotok.backbones.timm_vit import imagenet_synsets

        yield {name: i for i, name in enumerate(imagenet_synsets(num_classes))}, "ImageNet synsets"
    yield _indices(num_classes, names), f"class indices{_otherwise(names, num_classes)}"


def _own_list(names: Iterable[str], own: Sequence[str]) -> dict[str, int]:
    """The model's own names, and those of `names` that are like a single one of them."""
    exact = _single(own)
    alike = _single([_plain(name) for name in own])
    return {n: alike[_plain(n)] for n in names if _plain(n) in alike} | exact


def _single(names: Sequence[str]) -> dict[str, int]:
    """The place of every name that is there once."""
    counts = Counter(names)
    return {name: i for i, name in enumerate(names) if counts[name] == 1}


def _plain(name: str) -> str:
    return " ".join(re.sub("[_-]", " ", name).casefold().split())


def _otherwise(names: Iterable[str], num_classes: int) -> str:
    """A remark where a training by ImageFolder would have numbered a full set of indices anew."""
    plain = [str(i) for i in range(num_classes)]
    if set(names) != set(plain) or sorted(plain) == plain:
        return ""
    return " (not the alphabetical order of ImageFolder, to which '10' comes before '2')"


def _indices(num_classes: int, names: Iterable[str] = ()) -> dict[str, int]:
    """Digits to the class they count, zeros before them included where `names` have such."""
    plain = {str(i): i for i in range(num_classes)}
    padded = (name for name in names if name.isascii() and name.isdigit() and len(name) < 8)
    return plain | {name: int(name) for name in padded if int(name) < num_classes}


def _by_rank(found: Source, reference: Source, trained: bool) -> Labelling:
    names = {name: i for i, name in enumerate(reference.names)}
    words = f"{reference.where} in alphabetical order, as ImageFolder numbers them"
    if not trained:
        words += " (neither a train folder nor --class-names to check them by)"
    _refuse_strange(set(found.names) - names.keys(), names, len(names), words)
    return _labelling(found, names, len(names), words)


def _refuse_strange(
    strange: Iterable[str], names: Mapping[str, int], num_classes: int, words: str
) -> None:
    """Raise `DataError` that names the first of the names that are not in the list."""
    unknown = sorted(strange)
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"class '{unknown[0]}'{others} is none of the model's {num_classes} classes"
            f" ({words});{nearest(unknown[0], names)} take it out, or name the model's classes with"
            " --class-names FILE"
        )


def _labelling(
    found: Source,
    names: Mapping[str, int],
    num_classes: int,
    words: str,
    listed: Sequence[str] = (),
) -> Labelling:
    """The labelling by a list that holds every name found; `listed` are the model's classes, where
    they have names of their own."""
    index = {name: names[name] for name in found.names}
    owners: dict[int, str] = {}
    for name, i in index.items():
        if i in owners:
            raise DataError(f"classes '{owners[i]}' and '{name}' are the same one; merge them")
        owners[i] = name
    classes = dict(enumerate(listed)) or {i: name for name, i in names.items()} | owners
    missing = [classes[i] for i in range(num_classes) if owners.get(i) in (None, *found.empty)]
    have = num_classes - len(missing)
    counted = f"{have} of {num_classes}" if missing else str(num_classes)
    without = f" (no images of {_quoted(missing)})" if 0 < len(missing) <= NAMED else ""
    shown = tuple(printable(classes[i]) for i in range(num_classes))
    return Labelling(shown, index, f"{counted} classes{without}: {words}")


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
