"""Which images a `best.yaml` is judged on again, and which class names hold for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from autotok.errors import ConfigError, printable
from autotok.evaluation.layout import Layout, source_of
from autotok.export.best_yaml import read_best
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


def _asked(config: Path) -> Mapping[str, object]:
    """What the search or the fine-tune behind a `best.yaml` was asked, as far as it says so."""
    evidence = read_best(config).evidence
    question = evidence.get("question", evidence)
    return question if isinstance(question, Mapping) else {}
