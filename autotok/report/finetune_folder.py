"""The folder of a fine-tune: what it was asked, its checkpoint, its quality before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotok.config import CompressionConfig
from autotok.documents import parse_json
from autotok.errors import RunDirectoryError
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


@dataclass(frozen=True)
class QualityBefore:
    """What BEFORE keeps: of which configuration, data and images, and the tally over them."""

    key: Any
    tally: Tally


def read_question(folder: str | Path) -> dict[str, Any]:
    """The arguments of the fine-tune that a folder holds, as `finetune` takes them."""
    path = Path(folder) / QUESTION
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"folder '{folder}' holds no fine-tune to go on with; start one without --resume"
        ) from error
    asked = typed(FineTuneQuestion, parse_json(text, str(path)), str(path))
    checkpoint = None if asked.checkpoint is None else Path(asked.checkpoint)
    return {**vars(asked), "checkpoint": checkpoint}


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
