"""What a search is asked, and what is checked of it before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autotok.config import NUMBERS
from autotok.devices.placing import check_device, check_measure_on
from autotok.documents import Place, read_yaml
from autotok.errors import ConfigError, RunDirectoryError
from autotok.export.formats import check_format
from autotok.metrics import METRICS, ON_DEVICE, QUALITIES, Metric, own_quality
from autotok.names import ENGINES, SUBNETS, check_number, check_precision, known
from autotok.plain_data import typed
from autotok.searching.records.objective import DEFAULT_OBJECTIVES, asked_metrics
from autotok.searching.space.budget import BudgetRequest, parse_budgets
from autotok.searching.space.space_names import find_space

COMPARABLE = ("auto", "top1", "knn_top1", "own", "own_loss")
"""Qualities that mean the same for every backbone."""
LEAST_MB = 100
"""Free disk a hand-over may need: weights, an ONNX file, pictures."""


@dataclass(frozen=True)
class Question:
    """What a search is asked, as plain data; config.yaml keeps it so that a run can be resumed."""

    backbone: str = "autoformer_demo"
    backbones: tuple[str, ...] = ()
    """All of them, the one above first, where several are searched."""
    _: dataclasses.KW_ONLY
    checkpoint: str | None = None
    image_size: int | None = None
    data: str = "demo"
    train_data: str | None = None
    """What fine-tunes train on; the training split of `data` by default."""
    class_names: str | None = None
    """File of the model's class names in order; None: as the data's folders have them."""
    budgets: tuple[str, ...] = ("2.3GFLOPs",)
    flops_convention: str = "macs"
    target: str | None = None
    space: str = "default"
    methods: tuple[str, ...] = ()
    """Of these alone; none: those of the space."""
    formats: tuple[str, ...] = ()
    """Number formats of the exported file that are searched; none: those of the space."""
    image_sizes: tuple[int, ...] = ()
    """Sides in pixels that are searched; none: those of the space."""
    quality: str = "auto"
    subnet: str = "fixed"
    """'search' looks for structure together with tokens: a supernet's subnet, or by pruning."""
    batch: int | None = None
    """Images at a time that latency, throughput, memory and energy mean; None: the target's."""
    max_images: int | None = None
    """At most this many images of the data count as its validation split."""
    measure_on: str | None = None
    """What finalists are timed on: 'local', 'ssh://user@host' or 'ray:RESOURCE'."""
    device: str = "auto"
    """Where models run: 'auto', 'cpu', 'cuda[:N]' or 'mps'."""
    precision: str = "auto"
    """What models are judged in; config.yaml keeps what 'auto' came to, for the resumes to come."""
    precision_why: str = ""
    """Why, in words."""
    evaluator: str | None = None
    """`module:function` of a quality of the user's own, see `evaluation.own_quality`."""

    def __post_init__(self) -> None:
        known("subnet", self.subnet, SUBNETS)
        object.__setattr__(self, "quality", own_quality(self.quality, self.evaluator))
        check_number("batch", self.batch)
        check_number("max_images", self.max_images)

    @cached_property
    def requests(self) -> tuple[BudgetRequest, ...]:
        """The budgets, parsed; shares are of an uncompressed model not known yet."""
        found = parse_budgets(self.budgets, convention=self.flops_convention)
        if self.backbones:
            found = tuple(dataclasses.replace(r, backbone=self.backbone) for r in found)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **dataclasses.asdict(self),
            "backbones": list(self.backbones),
            "budgets": list(self.budgets),
            "methods": list(self.methods),
            "formats": list(self.formats),
            "image_sizes": list(self.image_sizes),
        }

    @property
    def named(self) -> str:
        """The backbone, or all of them, in words."""
        return ", ".join(self.backbones) or self.backbone

    @property
    def judged_in(self) -> str:
        """What models are judged in and why, in words."""
        return f"models are judged in {self.precision}: {self.precision_why}"

    @classmethod
    def from_dict(cls, data: object, where: Place | str = "question") -> Question:
        """The inverse of `to_dict`; runs of earlier versions judged in float32."""
        if isinstance(data, Mapping):
            data = {"precision": "float32", "precision_why": "as it began", **data}
        return typed(cls, data, where)


def check_names(
    question: Question,
    *,
    engine: str = "local",
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
) -> None:
    """Raise `UsageError` for a name that cannot be; torch is not imported for it."""
    known("engine", engine, ENGINES)
    known("quality", question.quality, QUALITIES)
    check_precision(question.precision)
    check_device(question.device)
    timed_on = question.measure_on or "none"
    if timed_on != "none":
        check_measure_on(timed_on)
    if question.batch is not None and question.target is None and timed_on == "none":
        raise ConfigError(
            f"batch {question.batch} is of latency, throughput and memory, and nothing tells these;"
            " give --target or --measure-on too, or leave it out"
        )
    space = dict(read_yaml(find_space(question.space), like="a search space")[0] or {})
    check_several(question, engine, space)
    if "exits" in space and question.checkpoint is None:
        raise untrained_exits(question.space)
    if question.methods:
        from autotok.methods.registry import list_methods

        for name in question.methods:
            known("method", name, ["plug-in", *list_methods()])
    limited = [request.metric for request in question.requests]
    if question.target is not None:
        from autotok.predicting.target import load_target

        load_target(question.target)
    wanted = [m.name for m in asked_metrics(objectives)]
    require_device(limited + wanted, question.target, timed_on)
    formats = question.formats or space.get("formats") or ()
    formats = (formats,) if isinstance(formats, str) else tuple(map(str, formats))
    _require_runtime(formats, {*limited, *wanted}, timed_on)


def check_several(
    question: Question, engine: str = "local", space: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise `ConfigError` for what a search of several backbones cannot do; `space` is its file."""
    names = question.backbones
    if not names:
        return
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"backbone '{twice}' is given twice; give each of several once")
    if question.quality not in COMPARABLE:
        raise ConfigError(
            f"quality '{question.quality}' holds each backbone against its own uncompressed outputs"
            " and says nothing between backbones; give top1 with labelled data, or one backbone"
        )
    asked = {
        f"--subnet {question.subnet}": question.subnet != "fixed",
        "--checkpoint": question.checkpoint is not None,
        "--image-sizes": bool(question.image_sizes),
        f"--measure-on {question.measure_on}": question.measure_on not in (None, "none"),
        f"--engine {engine}": engine != "local",
        f"subnet: {space.get('subnet')} of space '{question.space}'": (
            space.get("subnet", "fixed") != "fixed"
        ),
        f"image_size of space '{question.space}'": "image_size" in space,
        f"exits of space '{question.space}'": "exits" in space,
    }
    for what, is_asked in asked.items():
        if is_asked:
            raise ConfigError(
                f"{what} works with one backbone, and {len(names)} were given"
                f" ({', '.join(names)}); leave it out, or search one backbone at a time"
            )


def _require_runtime(formats: Sequence[str], metrics: Collection[str], measure_on: str) -> None:
    """Raise `ConfigError` where number formats are searched that nothing asked for tells apart, or
    that what finalists are timed on does not run."""
    lower = [known("number format", name, NUMBERS) for name in formats if name != "float32"]
    if not lower:
        return
    example = "--measure-on 'local?runtime=onnxruntime'"
    if not {*metrics} & {*ON_DEVICE}:
        raise ConfigError(
            f"number format {lower[0]} costs quality and saves time and memory, and nothing asked"
            f" for tells these; add --objective latency with a --target and {example}"
        )
    if measure_on in ("none", "local", "local?runtime=compile") or measure_on.startswith("ray"):
        raise ConfigError(
            f"number format {lower[0]} is timed from its exported file, never predicted alone; give"
            f" {example}, 'local?runtime=openvino' or a board over ssh"
        )


def untrained_exits(space: str) -> ConfigError:
    """What to say where a space asks for exits whose heads nobody trained."""
    return ConfigError(
        f"space '{space}' searches exits, whose heads have to be trained first; train them with"
        " autotok finetune --exits ... -o FOLDER, and give --checkpoint"
        " FOLDER/best/weights.safetensors"
    )


def require_device(names: Iterable[str], target: str | None, measure_on: str = "any") -> None:
    """Raise `ConfigError` where metrics of budgets and objectives cannot be known."""
    for metric in (METRICS[name] for name in names if name in ON_DEVICE):
        if target is None or (metric.kind == "measured" and measure_on == "none"):
            raise device_needed(metric)


def device_needed(metric: Metric) -> ConfigError:
    """What to say of a metric that cannot be known."""
    if metric.kind == "measured":
        how = (
            "is known where a device counts it: give a --measure-on with a counter beside --target"
        )
    else:
        how = "needs to know the device: give --target"
    return ConfigError(f"{metric.label} {how}")


def check_hand_over(folder: Path) -> None:
    """Raise where the end of a search would fail, although its trials would not.

    Raises:
        ExportError: ONNX files cannot be written or run here.
        RunDirectoryError: the disk has too little room for what is handed over.
    """
    check_format("onnx")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free_mb = shutil.disk_usage(parent).free / 1e6
    if free_mb < LEAST_MB:
        raise RunDirectoryError(
            f"output folder '{folder}' is on a disk with {free_mb:.0f} MB left, and what a search"
            f" hands over may take {LEAST_MB} MB; make room, or choose another --output"
        )
