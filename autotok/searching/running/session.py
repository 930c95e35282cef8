"""The problem built from what a search is asked: model, data, budgets, device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from torch import nn

from autotok.backbones.autoformer import subnet_facts
from autotok.backbones.autoformer_family import load_supernet, supernet_structure
from autotok.backbones.base import Backbone, repeated
from autotok.backbones.family import family_of
from autotok.backbones.loading import as_backbone, check_file, load_backbone, load_structure
from autotok.backbones.pruning import require_prunable
from autotok.backbones.supernet import AutoFormerSupernet
from autotok.compression.model import CompressedViT
from autotok.config import CompressionConfig, Primitive
from autotok.devices.device import Device
from autotok.devices.measurement import Measurement
from autotok.devices.placing import torch_device
from autotok.errors import ConfigError, DataError
from autotok.evaluation.accuracy import Evaluator, Tally
from autotok.evaluation.data import DataSource, check_data, load_data
from autotok.evaluation.own_quality import OwnQuality, make_evaluator
from autotok.evaluation.precision import choose_format
from autotok.exits import parse_exits
from autotok.export.trained_exits import require_heads, trained_exits, trained_policy
from autotok.facts import BackboneFacts
from autotok.methods.base import TokenReducer, Training
from autotok.methods.image_scoring import ImageScoring
from autotok.methods.registry import get_method
from autotok.metrics import METRICS, PREDICTED
from autotok.predicting.predict import predict_trace, trace_for
from autotok.predicting.target import Target, load_target
from autotok.searching.proposing.feasible import within_sizes
from autotok.searching.space.exit_answers import NO_EXITS
from autotok.searching.space.problem import Problem, budgets_of
from autotok.searching.space.search_space import SearchSpace
from autotok.searching.space.space_file import check_exits_fit, image_sides, load_space
from autotok.searching.space.subnets import Structure, Subnets
from autotok.training.teacher import check_teacher

from .counterpart import require_same_patches
from .held import held_by
from .model_worker import ModelWorker
from .question import Question, require_device, untrained_exits
from .ranking import pruned_structure

Loaded = tuple[Backbone, AutoFormerSupernet | None]
"""A backbone and the supernet it is cut from."""


@dataclass(frozen=True)
class Session:
    """A question with its model and data loaded."""

    question: Question
    backbone: Backbone
    evaluator: Evaluator
    target: Target | None
    problem: Problem
    worker: ModelWorker
    plug_in_only: str | None = None
    """Why the space's retraining was left out; None where it was not."""
    several: Mapping[str, Session] = field(default_factory=dict)
    """By backbone, where there are several; what stands above is the first one's, but for the
    problem, which is that of all."""

    @property
    def each(self) -> list[Session]:
        """Of every backbone alone."""
        return [*self.several.values()] or [self]

    def of(self, backbone: str) -> Session:
        """The session of one backbone alone; "" is the first, or the only one."""
        return self.several.get(backbone, self)


def build_problem(
    question: Question,
    model: nn.Module | None = None,
    *,
    seed: int = 0,
    weights: Path | None = None,
    finetunes: int | None = None,
    loaded: Loaded | None = None,
    own: OwnQuality | None = None,
) -> Session:
    """Load what a question names; `model` replaces the named backbone.

    `weights` is the folder for fine-tuned weights, inside the run directory; with 0 `finetunes`
    nothing is retrained; `loaded` is the backbone and its supernet, where another process has
    loaded them already; `own` is the question's evaluator, where it is at hand.
    """
    # what the user named is there: asked before anything is loaded
    check_data(question.data, question.train_data, question.class_names)
    check_file(None if question.checkpoint is None else Path(question.checkpoint))
    placed = torch_device(question.device)
    if own is None and question.evaluator is not None:
        own = OwnQuality.of(question.evaluator)
    space = load_space(question.space)
    for spec in space.finetune.teachers():
        check_teacher(spec)
    if question.methods:
        space = dataclasses.replace(space, methods=question.methods)
    if question.formats:
        space = dataclasses.replace(space, number_formats=question.formats)
    if question.image_sizes:
        space = dataclasses.replace(space, image_sizes=image_sides(question.image_sizes))
    _require_exits(space, question)
    target = None if question.target is None else load_target(question.target)
    joint = "search" in (question.subnet, space.subnet)
    structure: Subnets | None
    backbone, supernet, structure = _load_model(question, model, loaded, joint=joint)
    if joint and structure is None:
        require_prunable(backbone)
    require_device([r.metric for r in question.requests], question.target)
    for part in (backbone, supernet):
        if part is not None:
            part.to(placed)
    if question.quality == "feature":
        require_same_patches(dataclasses.replace(space, structure=structure), backbone.facts)
    images = _images(question, backbone, "val", own_labels=question.quality == "knn_top1")
    chosen = choose_format(question.precision, backbone, images, seed=seed)
    settled = dataclasses.replace(
        question, precision=chosen.precision, precision_why=question.precision_why or chosen.why
    )
    evaluator = make_evaluator(
        backbone,
        images,
        metric=question.quality,
        seed=seed,
        precision=chosen.precision,
        own=own,
        training=partial(_images, question, backbone, "train", own_labels=True),
    )
    training = partial(_images, question, backbone, "train")
    heads = None
    if space.exits and question.checkpoint is not None:
        heads = trained_exits(Path(question.checkpoint), backbone.facts).to(placed)
    worker = ModelWorker(
        backbone, evaluator, training, supernet=supernet, weights=weights, heads=heads
    )
    reason = None if question.train_data is None else worker.why_not_trainable()
    if reason is not None:
        raise DataError(reason)
    if joint and structure is None:
        folder = None if weights is None else weights.parent
        structure = pruned_structure(backbone, worker.ranking_data(), seed=seed, folder=folder)
    space = dataclasses.replace(space, structure=structure)
    predictor = None if target is None else _Predictor(worker.plugged_in, target, question.batch)
    total = min(evaluator.num_images, question.max_images or evaluator.num_images)
    space, plug_in_only = _trainable(space, worker, finetunes)
    _require_networks(space, backbone.facts)
    problem = Problem(
        facts=backbone.facts,
        space=space,
        budgets=budgets_of(question.requests, backbone.facts, predictor),
        evaluate=worker.evaluate,
        total_images=total,
        metric=evaluator.metric,
        batch=question.batch,
        predict=predictor,
        load_tally=lambda data: Tally(**data),
        count=worker.count,
        finetune=worker.finetune if weights is not None else None,
        pace=worker.pace,
        has_weights=worker.has_weights,
        precision=chosen.precision,
        held=cache(partial(held_by, evaluator, supernet or backbone, target)),
        evaluator=question.evaluator,
    )
    problem = within_sizes(problem)
    return Session(settled, backbone, evaluator, target, problem, worker, plug_in_only)


def _images(
    question: Question, backbone: Backbone, split: str, *, own_labels: bool = False
) -> DataSource:
    """A split of the images that a question names."""
    return load_data(
        question.data,
        backbone,
        split=split,
        train_data=question.train_data,
        class_names=question.class_names,
        own_labels=own_labels,
    )


def _load_model(
    question: Question,
    model: nn.Module | None,
    loaded: tuple[Backbone, AutoFormerSupernet | None] | None,
    *,
    joint: bool,
) -> tuple[Backbone, AutoFormerSupernet | None, Structure | None]:
    """The backbone, and where subnets of a supernet are searched too, that and their choices."""
    name = question.backbone
    of_supernet = joint and model is None and family_of(name).has_subnets
    if loaded is not None and not of_supernet:
        return loaded[0], None, None
    checkpoint = None if question.checkpoint is None else Path(question.checkpoint)
    if not of_supernet:
        if model is not None:
            return as_backbone(model), None, None
        if joint and checkpoint is None:  # before weights are fetched
            require_prunable(load_structure(name, image_size=question.image_size))
        backbone = load_backbone(name, checkpoint=checkpoint, image_size=question.image_size)
        return backbone, None, None
    spec, default = supernet_structure(name, checkpoint)
    supernet = loaded[1] if loaded is not None else None
    supernet = supernet or load_supernet(name, checkpoint)
    structure = Structure(
        spec.embed_choices,
        spec.depth_choices,
        spec.heads_choices,
        spec.mlp_ratio_choices,
        default,
        lambda subnet: subnet_facts(spec, subnet, name=name),
    )
    return supernet.cut(default, name=name).eval(), supernet, structure


def _trainable(
    space: SearchSpace, worker: ModelWorker, finetunes: int | None
) -> tuple[SearchSpace, str | None]:
    """The space, without retraining where there is none to be, and the reason then.

    Methods that have to be trained are left out with it.

    Raises:
        ConfigError: nothing is left.
    """
    if "retrain" not in space.mode:
        return space, None
    candidates = space.candidates(worker.backbone.facts)
    untrained = [m for m in candidates if get_method(m).training_need is Training.REQUIRED]
    forbidden = finetunes == 0 and (untrained or space.mode == ("retrain",))
    reason = "0 fine-tunes were asked for" if forbidden else worker.why_not_trainable()
    if reason is None:
        losses = worker.usable_losses()
        finetune = space.finetune.restricted(losses, otherwise=losses[0])
        return dataclasses.replace(space, finetune=finetune), None
    if space.mode == ("retrain",):
        raise ConfigError(
            f"space '{space.name}' only retrains, but {reason}, so nothing of it can be run; add"
            " plug-in to its mode, or make fine-tunes possible"
        )
    if len(untrained) == len(candidates):
        raise ConfigError(
            f"every method of space '{space.name}' ({', '.join(untrained)}) has to be trained, but"
            f" {reason}, so nothing of it can be run; add others, or make fine-tunes possible"
        )
    if untrained:
        reason += f"; left out, for they have to be trained: {', '.join(untrained)}"
    exclude = (*space.exclude, *untrained)
    return dataclasses.replace(space, mode=("plug-in",), exclude=exclude), reason


def _require_exits(space: SearchSpace, question: Question) -> None:
    """Raise `ConfigError` where a space asks for exits whose heads nobody trained, or together
    with what they cannot follow."""
    if not space.exits:
        return
    check_exits_fit(space, question.subnet)
    if question.checkpoint is None:
        raise untrained_exits(space.name)
    asked = (parse_exits(words) for words in space.exits if words != NO_EXITS)
    require_heads(asked, trained_policy(Path(question.checkpoint)))


def _require_networks(space: SearchSpace, facts: BackboneFacts) -> None:
    """Raise `CheckpointError` where a method of the space looks at images with a network whose
    weights cannot be had: before the search, not in each of its trials."""
    for method in map(get_method, space.candidates(facts)):
        if not issubclass(method, ImageScoring):
            continue
        from autotok.backbones.feature_net import load_feature_net

        for name in sorted({str(method.auxiliary(o)) for o in _settings(method, space)}):
            load_feature_net(name)


def _settings(method: type[TokenReducer], space: SearchSpace) -> list[dict[str, Primitive]]:
    """Options that the space can give a method, all combinations of those it chooses among."""
    given = space.options.get(method.name, {})
    free = {o.name: list(o.choices) for o in method.options if o.search and o.choices}
    listed = {
        key: value if isinstance(value, list) else [value]
        for key, value in {**free, **given}.items()
        if value != "default"
    }
    return [
        method.resolve_options(dict(zip(listed, values, strict=True)))
        for values in itertools.product(*listed.values())
    ]


class _Predictor:
    """Predicted latency and memory of a configuration on a target, remembered."""

    def __init__(
        self,
        build: Callable[[CompressionConfig], CompressedViT],
        target: Target,
        batch: int | None = None,
    ) -> None:
        self._build, self._target = build, target
        self._batch = batch
        self._known: dict[str, dict[str, float]] = {}

    def __call__(self, config: CompressionConfig) -> Mapping[str, float]:
        # number formats are predicted as float32: what they change is measured
        config = dataclasses.replace(config.plugged_in, number_format="float32")
        key = config.config_id
        if key not in self._known:
            traced = trace_for(self._build(config), self._target, batch=self._batch)
            found = predict_trace(traced, self._target)
            self._known[key] = {name: METRICS[name].of(found) for name in PREDICTED}
            errors = {"latency": found.error_pct, "memory": found.memory_error_pct}
            self._known[key] |= {f"{k}_error_pct": e for k, e in errors.items() if e is not None}
        return self._known[key]


def measuring_on(device: Device | None, session: Session) -> Problem:
    """The session's problem, which measures on the device if there is one."""
    if device is None:
        return session.problem
    batch = session.question.batch
    if batch is None:
        batch = 1 if session.target is None else session.target.default_batch
    data = session.evaluator.data
    images, _ = data.batch(data.subset(min(batch, len(data)), session.evaluator.seed))
    images = repeated(images, batch)

    def measure(config: CompressionConfig) -> Measurement:
        return device.measure(session.worker.compressed(config), images, session.backbone)

    return dataclasses.replace(session.problem, measure=measure)
