"""Which images a `best.yaml` is judged on again, and which class names hold for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from autotok.errors import ConfigError, printable
from autotok.evaluation.classes import read_class_names
from autotok.evaluation.layout import Layout, source_of
from autotok.export.best_yaml import read_best
from autotok.export.infer import Refused, read_spec
from autotok.export.weights import weights_home
from autotok.names import is_named

logger = logging.getLogger(__name__)


def told_data(config: str | Path | None, given: str | Path | None = None) -> str | Path:
    """The images: those given, else those that a `best.yaml` was searched or fine-tuned on, else
    'demo'.

    Raises:
        ConfigError: no `best.yaml`, or its images are not here any more.
    """
    told = None if given is not None or config is None else _asked(Path(config)).get("data")
    if not isinstance(told, str):
        return given or "demo"
    if not is_named(told) and not Path(told).exists():
        raise ConfigError(
            printable(f"'{config}' was judged on '{told}', which is not here; give --data")
        )
    return told


def told_class_names(
    config: object, data: str | Path, given: str | Path | None = None
) -> Path | None:
    """The file of class names: the one given, else that which a `best.yaml` was searched or
    fine-tuned with, where `data` is a folder with names to look up in it.

    A file that is gone is warned of. `config` is a path, or a model, which tells nothing.

    Raises:
        ConfigError, DataError: no `best.yaml`, or no such folder.
    """
    if given is not None:
        return Path(given).expanduser().absolute()
    if not isinstance(config, (str, Path)):
        return None
    told = _asked(Path(config)).get("class_names")
    if not isinstance(told, str) or is_named(str(data)):
        return None
    judged = Layout.of(Path(data).expanduser()).val
    if judged is None or not source_of(judged).names:
        return None
    if Path(told).is_file():
        return Path(told)
    logger.warning(
        "%s",
        printable(f"class names '{told}' of '{config}' are gone; give --class-names to use them"),
    )
    return None


def kept_class_names(
    found_in: str | Path | None, given: str | Path | None, num_classes: int
) -> tuple[str | None, tuple[str, ...]]:
    """(file of class names, a model's classes by name): of the file given, else of that which the
    `best.yaml` it was found in was searched or fine-tuned with, where that is gone of its bundle.

    Raises:
        ConfigError, DataError: a file that cannot be read, or not a name for each class.
    """
    if given is not None:
        file = Path(given).expanduser().absolute()
        return str(file), read_class_names(file, num_classes)
    if found_in is None or read_best(Path(found_in)).backbone.num_classes != num_classes:
        return None, ()
    told = _asked(Path(found_in)).get("class_names")
    if not isinstance(told, str):
        return None, _bundled_names(Path(found_in))
    if Path(told).is_file():
        return told, read_class_names(Path(told), num_classes)
    return told, _bundled_names(Path(found_in))


def _bundled_names(found_in: Path) -> tuple[str, ...]:
    """What a bundle's `infer.py` calls the classes; () where it has none, or no names."""
    home = weights_home(found_in)
    if not (home / "preprocessing.json").is_file():
        return ()
    try:
        return tuple(read_spec(home).get("class_names", ()))
    except Refused as error:
        raise ConfigError(str(error)) from error


def _asked(config: Path) -> Mapping[str, object]:
    """What the search or the fine-tune behind a `best.yaml` was asked, as far as it says so."""
    evidence = read_best(config).evidence
    question = evidence.get("question", evidence)
    return question if isinstance(question, Mapping) else {}
