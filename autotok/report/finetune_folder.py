"""The folder of a fine-tune: what it was asked, its checkpoint, its quality before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotok.config import CompressionConfig
from autotok.documents import parse_json
from autotok.errors import ConfigError, RunDirectoryError
from autotok.evaluation.tally import Tally
from autotok.export.best_yaml import read_best
from autotok.files import check_folder
from autotok.finetune_spec import FineTuneSpec
from autotok.plain_data import typed

CHECKPOINT, QUESTION, BEFORE = "finetune.ckpt", "finetune.json", "before.json"


@dataclass(frozen=True)
class FineTuneQuestion:
    """What QUESTION keeps: the arguments of `finetune`."""

    data: str
    num_images: int
    precision: str
    spec: FineTuneSpec
    backbone: str | None = None
    checkpoint: str | None = None
    class_names: str | None = None
    config: CompressionConfig | None = None
    """What was to be trained; None of a model object, which no file gives again."""
    best: str | None = None
    """The best.yaml, or the folder, that it was read from."""


@dataclass(frozen=True)
class QualityBefore:
    """What BEFORE keeps: of which configuration, data and images, and the tally over them."""

    key: Any
    tally: Tally


def read_question(folder: str | Path) -> dict[str, Any]:
    """The arguments of the fine-tune that a folder holds, as `finetune` takes them; without `model`
    where that was an object, or an earlier version kept none."""
    found = vars(_kept(folder)).copy()
    config, best = found.pop("config"), found.pop("best")
    checkpoint = None if found["checkpoint"] is None else Path(found["checkpoint"])
    model = {} if config is None else {"model": config if best is None else Path(best)}
    return {**found, **model, "checkpoint": checkpoint}


def _kept(folder: str | Path) -> FineTuneQuestion:
    path = Path(folder) / QUESTION
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"folder '{folder}' holds no fine-tune to go on with; start one without --resume"
        ) from error
    return typed(FineTuneQuestion, parse_json(text, str(path)), str(path))


def check_same_start(folder: Path, asked: FineTuneQuestion) -> None:
    """Raise where a fine-tune that goes on is of another configuration than was begun.

    Raises:
        ConfigError: it is, or one of them was read from a file and the other was not.
    """
    kept = _kept(folder) if (folder / QUESTION).is_file() else asked
    if None in (kept.config, asked.config):
        return
    if kept.config != asked.config or (kept.best is None) != (asked.best is None):
        begun, given = (_words_of(question) for question in (kept, asked))
        raise ConfigError(
            f"folder '{folder}' holds a fine-tune of {begun}, and what is given is {given}; to go"
            " on with it, say nothing of what is to be trained, or choose another output folder"
        )


def _words_of(asked: FineTuneQuestion) -> str:
    where = "" if asked.best is None else f" of '{asked.best}'"
    return f"configuration {'' if asked.config is None else asked.config.config_id}{where}"


def fresh_finetune_folder(
    model: CompressionConfig | str | Path, backbone: str | None = None
) -> Path:
    """A folder under runs/ that the same best.yaml, or the same configuration, always mean."""
    if isinstance(model, CompressionConfig):
        name, config = backbone or "autoformer_demo", model
    else:
        found = read_best(Path(model))
        name, config = found.backbone.name, found.config
    return Path("runs") / f"finetune-{name}-{config.config_id}"


def fit_folder(folder: Path, resume: bool) -> Path:
    """The folder, if a fine-tune may begin in it, or go on.

    Raises:
        RunDirectoryError: it holds another one, or cannot be written.
    """
    check_folder(folder)
    if (folder / "best.yaml").exists():
        raise RunDirectoryError(
            f"folder '{folder}' holds a best.yaml already; choose another output folder"
        )
    if not resume and (folder / QUESTION).exists():
        raise RunDirectoryError(
            f"folder '{folder}' holds an unfinished fine-tune; go on with --resume, or choose"
            " another output folder"
        )
    return folder


def remove_files(folder: Path | None, *names: str) -> None:
    """Take files of the folder away, as far as there are any."""
    if folder is not None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
