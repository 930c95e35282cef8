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
from autotok.searching.space.problem import COUNTED_IMAGES

from .pages import draw_pages
from .run import Run
from .run_maps import write_maps
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
        exports = _write_best(folder, model, evaluator, evidence, formats, shown)
        exports = exports or {"onnx": {"error": no_export}}
        write_maps(folder, model, evaluator.data, seed=evaluator.seed)
        counts = {"attention": list(model.schedule.attention), "mlp": list(model.schedule.mlp)}
        tokens = {"before": backbone.facts.num_patches, **counts}
    images = f"{evaluator.data.name}: {evaluator.data.labelling}."
    facts = {
        "checks": _checks(result, exports),
        "tokens": tokens,
        "mattered": what_mattered(result.records, objectives),
        "notes": [
            *_notes(result, plug_in_only),
            images,
            f"Here {Question.from_dict(question).judged_in}.",
        ],
    }
    write_text(folder / FINISHED_FILE, json.dumps(facts, indent=1))
    draw_pages(Run(folder))


def _checks(result: SearchResult, exports: Mapping[str, Any]) -> dict[str, str]:
    inside = sum(r.within_budget is True for r in result.front)
    ran = any(r.macs_nominal is not None for r in result.front)
    where = f", on {COUNTED_IMAGES} images where the count depends on the image" if ran else ""
    checks = {
        "independent count": f"{inside} of {len(result.front)} configurations of the front are"
        f" within the budget by the counter that runs the model on the meta device{where}"
    }
    for name, found in exports.items():
        if "error" in found:
            checks[f"{name} export"] = f"failed: {found['error']}"
        else:
            checks[f"{name} export"] = (
                f"{'agrees' if found['ok'] else 'DISAGREES'} with torch on {found['num_images']}"
                f" images, largest difference {found['max_abs_diff']:.1e}, {found['runtime']}"
            )
            if found.get("parts"):
                checks[f"{name} export"] += (
                    f"; {len(found['parts'])} graphs, which stop as torch does on"
                    f" {found['same_stop_pct']:g} % of the images"
                )
            if found.get("own_sensitivity") is not None:
                checks[f"{name} export"] += (
                    f"; torch differs from itself by {found['own_sensitivity']:.1e} when the input"
                    " moves by a millionth"
                )
    return checks


def _notes(result: SearchResult, plug_in_only: str | None) -> list[str]:
    evaluated = [r for r in result.records if r.evaluated]
    failed = sum(r.state == "failed" for r in result.records)
    notes = [
        f"{len(evaluated)} different configurations were evaluated in {result.seconds:.0f} s, on"
        f" {result.plan.few} images each and on {result.plan.more} where nothing dominated them;"
        f" the front, the controls and the uncompressed model on {result.plan.final}."
    ]
    if result.workers:
        notes.append(f"{result.workers}.")
    if failed:
        notes.append(f"{failed} trials failed; trials.csv gives the reasons.")
    if result.final.outside:
        shown = next((r for r in result.final.outside if r.reason), result.final.outside[0])
        notes.append(
            f"{len(result.final.outside)} finalists turned out to be outside the budget and were"
            f" left out, such as trial {shown.number}: {shown.reason or 'by the second count'}."
        )
    if plug_in_only is not None:
        notes.append(f"Nothing could be retrained: {plug_in_only}.")
    return notes


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
