"""The objective: the weighted sum of a student's losses, most of them against a teacher.

The uncompressed model keeps every token and the student does not. Where features are compared, the
student's `Tokens.source` says which patches each of its tokens holds, and the teacher's features
are averaged over them (for pruning: gathered).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotok.backbones.base import Backbone, evaluating
from autotok.compression.model import CompressedViT
from autotok.compression.tap_request import TapRequest
from autotok.config import CompressionConfig
from autotok.errors import ConfigError
from autotok.evaluation.accuracy import computing
from autotok.evaluation.data import DataSource
from autotok.facts import BackboneFacts
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.base import Count
from autotok.methods.learning import Learning, LossContext, recipe_of
from autotok.methods.registry import get_method
from autotok.tokens import Needs, Taps, Tokens

from . import losses
from .exit_losses import check_exit_losses, exit_loss
from .losses import LOSSES, MIMIC_LAYERS, align, get_loss
from .teacher import Observed, OtherTeacher, Teacher, observe

EXITS_ALONE = {"exits_distill": 1.0}
"""What the heads of a model are trained by where nothing was chosen."""
_TOKENS = ("tokens", "tokens_kl")
_RELATIONS = Needs.QUERIES | Needs.KEYS | Needs.VALUES


class TrainingObjective(nn.Module):
    """The weighted sum of a spec's losses; holds the Linears that `mimic` needs between widths.

    What the losses need must be there: see `check_losses`.
    """

    def __init__(
        self,
        student: CompressedViT,
        spec: FineTuneSpec,
        teacher: Teacher | None,
        data: DataSource,
        precision: str,
    ) -> None:
        super().__init__()
        self.spec, self._teacher, self._data = spec, teacher, data
        self.precision, self.own_terms = precision, True
        chosen = [get_loss(name) for name in spec.losses]
        self.progress = 0.0
        """0 to 1 through the fine-tune; methods' own terms may follow it."""
        self.step = 0
        """Number of the step; some losses differ between even and odd ones."""
        self._exits = student.config.exits if any(loss.exits for loss in chosen) else None
        self._layers = frozenset().union(*(r.teacher_layers() for r in reducers_of(student)))
        self._inside = any(loss.inside for loss in chosen) or bool(self._layers)
        self._learns = any(loss.teacher for loss in chosen) or bool(self._layers)
        self._last = student.backbone.facts.num_blocks - 1
        self.linears = nn.ModuleList()
        if "mimic" in spec.losses:
            assert teacher is not None
            mine, theirs = student.backbone.facts.blocks, teacher.facts.blocks
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(spec.seed)
                self.linears.extend(
                    nn.Identity()
                    if mine[layer].width == theirs[layer].width
                    else nn.Linear(mine[layer].width, theirs[layer].width)
                    for layer in MIMIC_LAYERS
                )

    def forward(
        self,
        student: CompressedViT,
        images: Tensor,
        labels: Tensor | None,
        indices: Sequence[int] | None,
    ) -> Tensor:
        """The loss of a chunk of images (B, C, H, W), a scalar.

        `indices` are the data's, or None where the images were varied and the teacher's logits
        cannot be remembered.
        """
        with computing(images.device, self.precision):
            watch = self._watch(self._last, frozenset(self._exits.layers if self._exits else ()))
            mine = observe(student, images, watch, trace=self._inside)
        theirs = self._taught(images, indices)
        total = mine.logits.new_zeros(())
        for name, weight in self.spec.losses.items():
            if get_loss(name).exits:
                seen = mine.watch.tokens
                term = exit_loss(name, student, seen, mine.tokens, mine.logits, labels, self.step)
            else:
                term = self._term(name, mine, theirs, labels)
            total = total + weight * term
        taught = {} if theirs is None else {i: t.x for i, t in theirs.watch.tokens.items()}
        context = LossContext(
            tokens=mine.tokens,
            logits=mine.logits,
            labels=labels,
            label_smoothing=self.spec.label_smoothing,
            teacher_logits=None if theirs is None else theirs.logits,
            teacher=taught,
            progress=self.progress,
        )
        for reducer in reducers_of(student) if self.own_terms else ():
            extra = reducer.extra_loss(context)
            total = total if extra is None else total + extra
        return total

    @contextmanager
    def judging(self, *, own_terms: bool) -> Iterator[None]:
        """While it lasts, losses are those of a fine-tune's end, in float32: bfloat16 alone moves
        them by more than a step does."""
        before = self.precision, self.progress, self.step
        self.precision, self.progress, self.own_terms = "float32", 1.0, own_terms
        self.step = 1  # the odd steps are those that exits learn from
        try:
            yield
        finally:
            (self.precision, self.progress, self.step), self.own_terms = before, True

    def _watch(self, last: int, further: frozenset[int] = frozenset()) -> TapRequest:
        after = frozenset(MIMIC_LAYERS) if "mimic" in self.spec.losses else frozenset()
        inside = {last: _RELATIONS} if "relations" in self.spec.losses else {}
        return TapRequest(after | further, inside)

    def _taught(self, images: Tensor, indices: Sequence[int] | None) -> Observed | None:
        if not self._learns:
            return None
        assert self._teacher is not None
        if self._inside:
            watch = self._watch(self._teacher.facts.num_blocks - 1, self._layers)
            return self._teacher.observe(images, watch, self.precision)
        if indices is None:
            return self._teacher.observe(images, TapRequest(), self.precision)
        logits = self._teacher.cached_logits(self._data, indices, images, self.precision)
        return Observed(logits, Tokens(images, 0, (0, 0)), TapRequest())

    def _term(
        self, name: str, mine: Observed, theirs: Observed | None, labels: Tensor | None
    ) -> Tensor:
        spec = self.spec
        if name == "ce":
            assert labels is not None
            smoothing = spec.label_smoothing
            return losses.cross_entropy(mine.logits, labels, label_smoothing=smoothing)
        assert theirs is not None
        pair, temperature = (mine.logits, theirs.logits), spec.temperature
        if name in ("dkd", "nkd"):
            assert labels is not None
            # of a mixed image the class of the larger part, as in the code of NKD
            labels = labels.argmax(dim=-1) if labels.dim() == 2 else labels
            return getattr(losses, name)(*pair, labels, temperature=temperature)  # type: ignore[no-any-return]
        if name in ("soft", "deit_soft", "standardised"):
            return getattr(losses, name)(*pair, temperature=temperature)  # type: ignore[no-any-return]
        if name in ("hard", "cosine"):
            return getattr(losses, name)(*pair)  # type: ignore[no-any-return]
        if name in _TOKENS:
            term = losses.token_kl if name == "tokens_kl" else losses.token_mse
            return _tokens(mine, theirs, term)
        return (self._mimic if name == "mimic" else _relations)(mine, theirs)

    def _mimic(self, mine: Observed, theirs: Observed) -> Tensor:
        pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        for linear, layer in zip(self.linears, MIMIC_LAYERS, strict=True):
            own, full = mine.watch.tokens[layer], theirs.watch.tokens[layer]
            pairs[0].append(linear(own.x.float()))
            pairs[1].append(align(full.x.float(), own.source, own.num_prefix))
        return losses.mimic(*pairs)


def _relations(mine: Observed, theirs: Observed) -> Tensor:
    ((tokens, own),) = mine.watch.taps.values()
    ((_, full),) = theirs.watch.taps.values()
    student, teacher = _qkv(own), _qkv(full)
    kept = [align(values, tokens.source, tokens.num_prefix) for values in teacher]
    return losses.relations(student, (kept[0], kept[1], kept[2]))


def _qkv(taps: Taps) -> tuple[Tensor, Tensor, Tensor]:
    return taps.queries.float(), taps.keys.float(), taps.values.float()


def _tokens(
    mine: Observed, theirs: Observed, term: Callable[[Tensor, Tensor, Tensor | None], Tensor]
) -> Tensor:
    """DynamicViT's token term; normalised without the affine part, which backbones keep private."""
    own = mine.tokens
    kept = align(theirs.tokens.x.float(), own.source, own.num_prefix)[:, own.num_prefix :]
    pair = [F.layer_norm(x, x.shape[-1:]) for x in (own.patches.float(), kept)]
    return term(pair[0], pair[1], own.mask)


def reducers_of(student: CompressedViT) -> list[Learning]:
    """The parts of a method with a training of its own, one per reduction layer."""
    return [r for r in student.reducers.values() if isinstance(r, Learning)]


def default_losses(
    facts: BackboneFacts, config: CompressionConfig | None = None, *, labelled: bool = False
) -> dict[str, float]:
    """What to learn from where nothing was chosen.

    Self-distillation of the exits, where there are any; else the losses that the method was
    published with, those without labels where there are none; for
    methods that name none, the logits of the uncompressed model, or features of a headless one.
    """
    config, usable = config or CompressionConfig(), {}
    if config.exits is not None:
        return dict(EXITS_ALONE)
    method = get_method(config.method)
    recipe = recipe_of(method, method.resolve_options(config.options))
    for name, weight in recipe.losses.items():
        loss = get_loss(name)
        if (labelled or not loss.labels) and (facts.num_classes or not loss.classes):
            usable[name] = weight
    if usable:
        return usable
    return {"soft": 1.0} if facts.num_classes else {"cosine": 1.0}


def check_losses(
    student: CompressedViT, spec: FineTuneSpec, teacher: Teacher | None, data: DataSource
) -> None:
    """Raise `ConfigError` or `UnknownName` for a loss that this fine-tune cannot use."""
    facts = student.backbone.facts
    whole = teacher is not None and not isinstance(teacher, OtherTeacher)
    if not whole and any(reducer.teacher_layers() for reducer in reducers_of(student)):
        raise ConfigError(
            f"method '{student.config.method}' learns from the uncompressed model's tokens;"
            + (" give a teacher" if teacher is None else " leave out the other teacher")
        )
    if spec.teacher is not None and not any(get_loss(name).teacher for name in spec.losses):
        raise ConfigError(
            f"teacher '{spec.teacher}' is given, and no loss learns from it; add one, such as soft"
        )
    check_exit_losses(student.config, spec.losses)
    for name in spec.losses:
        loss = get_loss(name)
        if loss.labels and not data.labelled:
            without = _others(student, "labels")
            raise ConfigError(
                f"loss '{name}' needs labels, but data '{data.name}' has none that match the"
                f" model's classes; choose among {', '.join(without)}"
            )
        if loss.exits and student.exits is None:
            raise ConfigError(
                f"loss '{name}' trains exits, and the configuration has none; give exits, or choose"
                " another loss, such as soft"
            )
        if loss.classes and not facts.num_classes:
            without = _others(student, "classes")
            raise ConfigError(
                f"loss '{name}' compares classes, but backbone '{facts.name}' has no classifier;"
                f" choose among {', '.join(without)}"
            )
        if loss.teacher and teacher is None:
            raise ConfigError(
                f"loss '{name}' learns from the uncompressed model; give a teacher, or choose ce"
            )
        reason = None if teacher is None else _misfit(name, student, teacher)
        if reason is not None:
            raise ConfigError(
                f"loss '{name}' cannot be used with method '{student.config.method}' on backbone"
                f" '{facts.name}': {reason}; choose another, such as soft"
            )
        if teacher is not None and loss.teacher and not (loss.inside or facts.num_classes):
            _check_widths(name, student.backbone, teacher, spec.teacher or facts.name)


@torch.no_grad()
def _check_widths(loss: str, backbone: Backbone, teacher: Teacher, named: str) -> None:
    """Raise `ConfigError` where features differ in width; a blank image says how wide they are, for
    projections and classifiers that were taken off make it another than the blocks'."""
    facts, like = backbone.facts, next(backbone.parameters())
    blank = torch.zeros(1, *facts.image_shape, device=like.device)
    with evaluating(backbone):
        mine: int = backbone(blank).shape[-1]
    theirs = teacher.logits(blank, "float32").shape[-1]
    if mine != theirs:
        raise ConfigError(
            f"loss '{loss}' compares features, of which teacher '{named}' gives {theirs} and"
            f" backbone '{facts.name}' {mine}; give a teacher of the same width"
        )


def _others(student: CompressedViT, need: str) -> list[str]:
    """Losses that do without something, those of exits only where there are any."""
    early = student.exits is not None
    known = (loss for loss in LOSSES.values() if early or not loss.exits)
    return [loss.name for loss in known if not getattr(loss, need)]


def _misfit(name: str, student: CompressedViT, teacher: Teacher) -> str | None:
    """Why a loss cannot compare this student with this teacher; None if it can."""
    loss = get_loss(name)
    if not loss.teacher:
        return None
    if isinstance(teacher, OtherTeacher):
        return "another teacher is asked for its answers only" if loss.inside else None
    mine, theirs = student.backbone.facts, teacher.facts
    if not loss.inside:
        if mine.num_classes != theirs.num_classes:
            return f"the teacher has {theirs.num_classes} classes, not {mine.num_classes}"
        return None
    if (mine.grid, mine.num_prefix) != (theirs.grid, theirs.num_prefix):
        return "the teacher's tokens stand for other patches"
    if get_method(student.config.method).count is Count.ADAPTIVE and name not in _TOKENS:
        return "it keeps another number of tokens in each image"
    if name == "mimic" and min(mine.num_blocks, theirs.num_blocks) <= max(MIMIC_LAYERS):
        return "it compares the first two blocks, and there are fewer"
    if name == "relations" and mine.blocks[-1].heads != theirs.blocks[-1].heads:
        return (
            f"it compares the last blocks head by head, and they have {mine.blocks[-1].heads} and"
            f" {theirs.blocks[-1].heads} heads"
        )
    if name in _TOKENS and mine.blocks[-1].width != theirs.blocks[-1].width:
        return "it compares final tokens, and their widths differ"
    return None
