"""`run_table`: the rows of a published table, run one after another beside what was printed.

What it will cost is said first, from one timed forward; rows that are in the folder already are not
run again, and one that cannot run says why while the rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from autotok.backbones.base import evaluating
from autotok.backbones.loading import check_file, load_structure
from autotok.config import CompressionConfig
from autotok.counting.macs import cost, uncompressed
from autotok.devices.placing import torch_device
from autotok.errors import AutotokError, ConfigError, failure
from autotok.evaluation.accuracy import default_batch_size
from autotok.evaluation.data import check_data
from autotok.export.weights import sha256_of
from autotok.facts import BackboneFacts
from autotok.names import check_number, check_precision, known

from .result_row import planned_result, with_measurement, with_quality
from .row_models import STAND_IN, TURNS, RowModels, RowSetting
from .row_plan import PlannedRow, plan_row
from .study_curve import draw_curve
from .study_folder import CURVE, NOT_TIMED, OK, Result, StudyFolder, StudyQuestion, placed
from .study_markdown import first_line, study_markdown
from .study_table import StudyRow, StudyTable, load_study

OnProgress = Callable[[float, str], None]
_TRAINING_BATCH, _TRAINING_PASSES = 16, 4
"""Images of a step, and forwards that one costs: forward, backward, and the teacher's."""


@dataclass(frozen=True)
class StudyResult:
    """What a study came to."""

    study: str
    folder: Path
    rows: tuple[Result, ...]
    """As in results.csv, in the table's order."""
    cost: str
    """What was said before it started."""
    table: str
    """table.md."""


@dataclass(frozen=True)
class _Plan:
    """Rows to run, or why not."""

    row: StudyRow
    planned: PlannedRow | None
    why_not: str
    result: Result
    steps: int = 0
    """Of its fine-tune."""


@cache
def _facts(name: str) -> BackboneFacts:
    return load_structure(name).facts


def run_table(
    name: str,
    folder: Path,
    setting: RowSetting,
    *,
    only: Sequence[str],
    on_progress: OnProgress,
) -> StudyResult:
    """Run a study; see `autotok.run_study`."""
    study = load_study(name)
    rows = study.named(only)
    _check(study, setting)
    stand_in = STAND_IN if setting.is_stand_in else ""
    asked = StudyQuestion(
        *(name, placed(setting.data), stand_in, setting.num_images, setting.finetune_steps),
        precision=setting.precision,
        checkpoints={key: sha256_of(file) for key, file in setting.checkpoints.items()},
        class_names=""
        if setting.class_names is None
        else sha256_of(Path(setting.class_names).expanduser()),
    )
    kept = StudyFolder(folder, asked)
    done = kept.read()
    plans = [_planned(study, row, setting) for row in rows if row.name not in done]
    told = _cost_line(plans, setting, measured=bool(study.measured))
    on_progress(0.0, first_line(study, asked))
    on_progress(0.0, told)
    kept.begin()
    models = RowModels(setting, folder)
    for index, plan in enumerate(plans):
        on_progress((index + 0.01) / len(plans), f"row {plan.row.name}")
        done[plan.row.name] = _run(study, plan, models)
        results = _ordered(study, done)
        kept.write(results, study_markdown(study, asked, results))
    results = _ordered(study, done)
    if study.curve:
        draw_curve(folder / CURVE, study, results, first_line(study, asked))
    table = study_markdown(study, asked, results)
    return StudyResult(name, folder, tuple(results), told, table)


def _ordered(study: StudyTable, done: Mapping[str, Result]) -> list[Result]:
    """Results in the table's order."""
    return [done[row.name] for row in study.rows if row.name in done]


def _check(study: StudyTable, setting: RowSetting) -> None:
    """Raise for what cannot be, before anything is loaded."""
    names = dict.fromkeys(row.checkpoint_name for row in study.rows)
    for name, file in setting.checkpoints.items():
        known(f"backbone of study '{study.name}'", name, names)
        check_file(file)
    if setting.checkpoints and setting.is_stand_in:
        raise ConfigError(
            f"checkpoints mean nothing without data: {STAND_IN} then stands in for every backbone;"
            " give --data as well"
        )
    check_data(setting.data, class_names=setting.class_names)
    check_precision(setting.precision)
    check_number("num_images", setting.num_images)
    if setting.finetune_steps < 0:
        raise ConfigError(
            f"fine-tune steps are {setting.finetune_steps}; give 0, for none, or more"
        )


def _planned(study: StudyTable, row: StudyRow, setting: RowSetting) -> _Plan:
    """A row's configuration and what is known of it unrun, or why it cannot run."""
    name = setting.backbone_name(row)
    facts = _facts(name)
    result = planned_result(study, row, facts, None)
    try:
        planned = plan_row(study, row, _facts(row.backbone), facts)
        result = planned_result(study, row, facts, planned)
        return _Plan(row, planned, "", result, setting.steps(row))
    except AutotokError as error:
        return _Plan(row, None, str(error), result)


def _run(study: StudyTable, plan: _Plan, models: RowModels) -> Result:
    """The row's result; what stops it is its status."""
    result, row = dict(plan.result), plan.row
    if plan.planned is None:
        return result | {"status": f"not run: {plan.why_not}"}
    try:
        judged = models.judge(row, plan.planned.config, plan.steps)
        result = with_quality(result, study, row, judged)
    except AutotokError as error:
        return result | {"status": f"not run: {error}"}
    except RuntimeError as error:  # a GPU's memory ends; the other rows may fit
        return result | {"status": f"not run: {failure(error)}"}
    if study.measured:
        result = _timed(result, study, row, judged.config, models)
    return result | {"status": OK}


def _timed(
    result: Result, study: StudyTable, row: StudyRow, config: CompressionConfig, models: RowModels
) -> Result:
    """The row with its speed; where it cannot be timed its quality stands, and a note says why."""
    batch = next((int(f.batch_size) for f in study.published(row) if f.batch_size), 1)
    try:
        return with_measurement(result, models.measured(row, config, batch))
    except (AutotokError, RuntimeError) as error:
        why = str(error) if isinstance(error, AutotokError) else failure(error)
        return result | {"note": "; ".join(filter(None, (result["note"], f"{NOT_TIMED}{why}")))}


def _cost_line(plans: Sequence[_Plan], setting: RowSetting, *, measured: bool) -> str:
    """What is about to be spent: configurations, images, minutes, training steps."""
    runnable = [plan for plan in plans if plan.planned is not None]
    if not runnable:
        return f"cost: 0 configurations to run, {len(plans)} rows that cannot"
    names = dict.fromkeys(setting.backbone_name(plan.row) for plan in runnable)
    wholes = {name: uncompressed(_facts(name)).macs for name in names}
    passes, steps = float(sum(wholes.values())) * setting.num_images, 0
    seen: set[tuple[str, CompressionConfig]] = set()
    for plan in runnable:
        assert plan.planned is not None
        name, config = setting.backbone_name(plan.row), plan.planned.config
        own = float(cost(_facts(name), config).macs)
        steps += plan.steps
        passes += float(plan.steps * _TRAINING_BATCH * _TRAINING_PASSES * wholes[name])
        if plan.steps or (name, config) not in seen:
            passes += own * setting.num_images
            passes += 3 * TURNS * (own + wholes[name]) if measured else 0.0
        seen.add((name, config))
    cheapest = min(wholes, key=lambda name: wholes[name])
    minutes = passes * _seconds_per_mac(cheapest, setting.device) / 60
    return (
        f"cost: {len(seen)} configurations of {len(plans)} rows on {', '.join(names)},"
        f" {setting.num_images} images each, {steps} training steps, about"
        f" {max(minutes, 0.1):.1f} minutes (from one timed forward of {cheapest})"
    )


def _seconds_per_mac(name: str, device: str) -> float:
    """Of a forward with random weights, the second of two."""
    where = torch_device(device)
    model = load_structure(name, device=str(where)).to(where)
    facts = model.facts
    images = torch.zeros(default_batch_size(facts, where), *facts.image_shape, device=where)
    with torch.inference_mode(), evaluating(model):
        for _ in range(2):
            start = time.perf_counter()
            model(images).sum().item()
            taken = time.perf_counter() - start
    return taken / (len(images) * uncompressed(facts).macs)
