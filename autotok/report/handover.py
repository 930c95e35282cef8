"""What is made of a finished search: best.yaml, best/, environment, and the pages."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotok.backbones.base import Backbone
from autotok.compression.compress import compress_backbone
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig
from autotok.devices.board import machine_name
from autotok.evaluation.accuracy import Evaluator
from autotok.evaluation.preprocessing import preprocessing_of
from autotok.export.best_yaml import BackboneRef, Bundle, write_best
from autotok.export.bundle import save_bundle
from autotok.files import write_text
from autotok.searching.records.comparison import Comparisons, compare_front
from autotok.searching.records.objective import make_objectives
from autotok.searching.records.record import TrialRecord, as_told
from autotok.searching.records.rundir import FINISHED_FILE
from autotok.searching.running.question import Question
from autotok.searching.running.search_result import SearchResult

from .pages import draw_pages
from .run import Run
from .run_maps import write_maps
from .run_notes import careful_of, checks_of, no_files, notes_of
from .sources import predicted_for
from .what_mattered import what_mattered

PACKAGES = ("autotok", "torch", "timm", "optuna", "numpy", "onnxruntime", "scikit-learn")
CHECK_IMAGES = 4


def hand_over(
    question: Mapping[str, Any],
    backbone: Backbone,
    evaluator: Evaluator,
    result: SearchResult,
    *,
    compressed: Callable[[CompressionConfig], CompressedViT] | None = None,
    calibration: Callable[[], Tensor] | None = None,
    plug_in_only: str | None = None,
    no_export: str = "",
) -> None:
    """Write everything a run directory holds beyond the study's own tables.

    `compressed` gives the model of a configuration, with its fine-tuned weights where it has some;
    by default the backbone's own weights. `calibration` gives the images that int8 files are
    calibrated on; by default those that the export is checked on. `plug_in_only` says why nothing
    could be retrained, `no_export` why best/ gets weights only.
    """
    folder, final = result.directory, result.final
    judged_in = {key: question.get(key) for key in ("device", "precision", "precision_why")}
    write_text(folder / "env.json", json.dumps({**environment(), **judged_in}, indent=1))
    objectives = make_objectives(result.settings.objectives, evaluator.metric)
    comparisons = compare_front(final, objectives, result.records)
    exports: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    if final.best is not None:
        assert final.best.config is not None
        model = (compressed or partial(compress_backbone, backbone))(final.best.config).eval()
        evidence = _evidence(question, final.best, comparisons, result.measuring)
        formats = () if no_export else ("onnx",)
        shown = None
        if calibration is not None and model.config.number_format == "int8":
            shown = calibration()
        left_out = {"onnx": no_export} if no_export else {}
        exports = _write_best(folder, model, evaluator, evidence, formats, left_out, shown)
        write_maps(folder, model, evaluator.data, seed=evaluator.seed)
        counts = {"attention": list(model.schedule.attention), "mlp": list(model.schedule.mlp)}
        tokens = {"before": backbone.facts.num_patches, **counts}
    images = f"{evaluator.data.name}: {evaluator.data.labelling}."
    facts = {
        "checks": checks_of(result, exports),
        "no_files": no_files(exports),
        "careful": careful_of(result, backbone.facts),
        "tokens": tokens,
        "mattered": what_mattered(result.records, objectives),
        "notes": [
            *notes_of(result, plug_in_only),
            images,
            f"Here {Question.from_dict(question).judged_in}.",
        ],
    }
    write_text(folder / FINISHED_FILE, json.dumps(facts, indent=1))
    draw_pages(Run(folder))


def _evidence(
    question: Mapping[str, Any],
    best: TrialRecord,
    comparisons: Comparisons,
    measuring: Mapping[str, Any],
) -> dict[str, Any]:
    """What speaks for the best, as plain data: it travels in best.yaml and best/."""
    provenance, tuning = comparisons.of(best.number), comparisons.tuning
    gain = next((g for g in tuning if g.number == best.number), None)
    return {
        "question": dict(question),
        "costs": None if best.costs is None else best.costs.columns,
        "macs_counted": best.macs_counted,
        "quality": None if best.score is None else dataclasses.asdict(best.score),
        "predicted": as_told(best.predicted),
        "predicted_for": predicted_for(question.get("target"), measuring, question.get("batch")),
        "measured": None if best.reading is None else dict(best.reading),
        "patch_tokens_kept": list(best.counts),
        "judged_format": getattr(best.config, "number_format", "float32"),
        "tuned": None if best.tuned is None else dict(best.tuned),
        "tuning_gain": None if gain is None else gain.to_dict(),
        "comparison": None if provenance is None else provenance.to_dict(),
    }


def _write_best(
    folder: Path,
    model: CompressedViT,
    evaluator: Evaluator,
    evidence: Mapping[str, Any],
    formats: Sequence[str],
    left_out: Mapping[str, str],
    calibration: Tensor | None,
) -> dict[str, Any]:
    """Results of the exports of best/; beside it, best.yaml."""
    checkpoint = evidence["question"].get("checkpoint")
    bundle = Bundle(
        backbone=BackboneRef.of(
            model.original.whole.facts, checkpoint=None if checkpoint is None else Path(checkpoint)
        ),
        config=model.config,
        preprocessing=preprocessing_of(evaluator.backbone).to_dict(),
        evidence=dict(evidence),
    )
    images, _ = evaluator.data.batch(evaluator.data.subset(CHECK_IMAGES, evaluator.seed))
    results = save_bundle(
        *(folder / "best", model, bundle, images),
        formats=formats,
        left_out=left_out,
        calibration=calibration,
        class_names=evaluator.data.class_names,
    )
    write_best(folder / "best.yaml", bundle)  # last: it names the weights of a retrained one
    exports: dict[str, Any] = results["exports"]
    return exports


def environment() -> dict[str, Any]:
    """Machine and versions, so that a figure can be placed."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": machine_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "packages": packages,
    }
