"""The tables of papers, run again: `run_study`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autotok.devices.placing import check_device
from autotok.studies.row_models import DATA_IMAGES, DEMO_IMAGES, RowSetting
from autotok.studies.study_engine import StudyResult, run_table


def run_study(
    name: str,
    *,
    data: str | Path | None = None,
    only: Sequence[str] = (),
    output: str | Path | None = None,
    num_images: int | None = None,
    finetune_steps: int = 0,
    checkpoints: Mapping[str, str | Path] | None = None,
    class_names: str | Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    on_progress: Callable[[float, str], None] | None = None,
) -> StudyResult:
    """A published table run again: own rows beside the printed ones, in results.csv and table.md.

    Rows that the folder holds are not run again; those that cannot run say why, and the rest goes
    on. What it will cost is told first.

    Args:
        name: One of `autotok.list_studies()`.
        data: As for `evaluate`, usually an image folder; without it the built-in demo's backbone
            stands in for every published one, on the demo's images.
        only: Rows to run; all by default.
        output: Folder; runs/study-NAME by default.
        num_images: At most; 1000 by default, 200 of the demo.
        finetune_steps: Of a short fine-tune of the rows that the source retrained, and of methods
            that must be trained; 0: the former run plugged in, and say so, the latter do not run.
        checkpoints: Weight files by the backbone's name.
        class_names: File of class names, see `evaluate`.
        on_progress: Told how far it is, from 0 to 1, and what happens.

    Raises:
        UnknownName, ConfigError, DataError, CheckpointError, RunDirectoryError
    """
    check_device(device)
    usual = DEMO_IMAGES if data is None else DATA_IMAGES
    setting = RowSetting(
        data=str(data or "demo"),
        is_stand_in=data is None,
        num_images=usual if num_images is None else num_images,
        finetune_steps=finetune_steps,
        precision=precision,
        device=device,
        class_names=None if class_names is None else str(class_names),
        checkpoints={key: Path(file) for key, file in (checkpoints or {}).items()},
    )
    folder = Path("runs") / f"study-{name}" if output is None else Path(output)
    tell = on_progress or (lambda *_: None)
    return run_table(name, folder, setting, only=only, on_progress=tell)
