"""The state of one fine-tune, and what a step does to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from autotok.compression.model import CompressedViT
from autotok.errors import Diverged
from autotok.evaluation.data import DataSource
from autotok.evaluation.transfer import sent
from autotok.finetune_spec import FineTuneSpec
from autotok.methods.learning import TrainingRecipe, recipe_of
from autotok.methods.registry import get_method

from .batches import BatchOrder, seed_streams
from .distill import TrainingObjective, reducers_of
from .heldout import Best, HeldOut, snapshot
from .precision import chunks
from .probe import RateChoice, lower
from .ranks import ALONE, Ranks
from .schedule import TrainingPlan, make_optimizer, make_schedule, set_lr
from .variation import Variation

# the loss of one batch says little of the training
WINDOW = 10
"""Steps whose mean loss is compared with the first ones' to notice divergence."""
RAMP = 10
"""Steps over which the rate rises again after it was lowered."""
MOST_BACK_OFFS = 3
WORSE = 1.1
"""Times the loss at the start, on held-out images: above, a rate that was probed is lowered."""


@dataclass(frozen=True)
class BackOff:
    """The rate was lowered, and the fine-tune went back to its best state."""

    step: int
    lr: float
    """From then on."""
    why: str


@dataclass
class TrainingRun:
    """Everything a fine-tune works on; from `step` on, its past."""

    student: CompressedViT
    objective: TrainingObjective
    data: DataSource
    spec: FineTuneSpec
    """With the rate in force."""
    plan: TrainingPlan
    order: BatchOrder
    variation: Variation
    chunk: int
    held_out: HeldOut
    optimizer: torch.optim.AdamW
    choice: RateChoice
    best: Best
    probed: bool
    """The rate was not given, so it may be lowered."""
    ranks: Ranks = ALONE
    ema: list[Tensor] | None = None
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    marks: int = 0
    """Checks on held-out images that are behind it."""
    checks: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss on held-out images)."""
    back_offs: list[BackOff] = field(default_factory=list)
    gave_up: bool = False

    @property
    def frozen(self) -> bool:
        """Only the exits' heads learn."""
        return "exits_distill" in self.spec.losses

    @property
    def finished(self) -> bool:
        return self.gave_up or self.plan.finished(self.step, self.seconds)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the student's weights, then the objective's."""
        return [*self.student.parameters(), *self.objective.parameters()]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The student with its averaged weights, if any."""
        if self.ema is None:
            yield
            return
        own = [value.detach().clone() for value in self.student.parameters()]
        put(self.student, self.ema)
        yield
        put(self.student, own)

    def start_averaging(self) -> None:
        """Averages begin at the weights as they are."""
        if self.spec.ema_decay > 0:
            self.ema = [value.detach().clone() for value in self.student.parameters()]

    def judge(self) -> None:
        """Compare the state that would be handed over now with the best one so far."""
        with self.averaged():
            loss = self.judged()
            if loss <= self.best.loss:
                self.best = Best(self.step, loss, snapshot(self.student))
        self.checks.append((self.step, loss))

    def judged(self, count: int | None = None) -> float:
        """Loss on the first `count` held-out images; the same number in every process."""
        return self.ranks.from_first(lambda: self.held_out.loss(self.student, count))

    def set_rate(self, lr: float) -> None:
        """Another highest rate, and an optimiser that remembers nothing."""
        self.spec = replace(self.spec, lr=lr)
        recipe = training_recipe(self.student)
        self.optimizer = make_optimizer(self.spec, recipe, self.student, self.objective)

    def back_off(self, why: str) -> None:
        """Go on from the best state at a lower rate; after too many, not at all."""
        if len(self.back_offs) >= MOST_BACK_OFFS:
            self.gave_up = True
            return
        assert self.spec.lr is not None
        self.student.load_state_dict(self.best.state)
        self.set_rate(lower(self.spec.lr))
        self.start_averaging()
        self.back_offs.append(BackOff(self.step, self.spec.lr, why))


@torch.no_grad()
def put(module: nn.Module, values: list[Tensor]) -> None:
    """Copy values into a module's parameters."""
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.copy_(value)


def training_recipe(student: CompressedViT) -> TrainingRecipe:
    """How the student's method is trained."""
    method = get_method(student.config.method)
    return recipe_of(method, method.resolve_options(student.config.options))


def prepare_step(run: TrainingRun) -> tuple[float, float]:
    """(learning rate, loss) of the next step; its gradients are there, no weight has moved.

    Raises:
        Diverged: loss or gradients are no numbers.
    """
    progress = run.plan.middle(run.step, run.seconds)
    schedule, frozen = (
        make_schedule(run.spec, run.optimizer),
        training_recipe(run.student).frozen_share,
    )
    lr = set_lr(schedule, run.optimizer, progress, frozen_share=frozen) * _ramp(run)
    return lr, _learn(run, run.step, progress)


def apply_step(run: TrainingRun, loss: float) -> None:
    """Move the weights and their average; the step is done."""
    _move(run)
    run.losses.append(loss)
    if run.ema is not None:
        decay = min(run.spec.ema_decay, (1 + run.step) / (10 + run.step))
        with torch.no_grad():
            for average, value in zip(run.ema, run.student.parameters(), strict=True):
                average.lerp_(value, 1.0 - decay)
    run.step += 1
    run.images += run.order.batch_size * run.spec.accumulate


def _ramp(run: TrainingRun) -> float:
    """The share of the rate that is in force this soon after it was lowered; now set."""
    since = run.step - run.back_offs[-1].step if run.back_offs else RAMP
    share = min(1.0, (since + 1) / RAMP)
    if share < 1.0:
        for group in run.optimizer.param_groups:
            group["lr"] *= share
    return share


def steps_at(run: TrainingRun, lr: float, steps: int) -> None:
    """A few steps from the weights as they are, up to a rate, that leave no trace in the run.

    Raises:
        Diverged: loss or gradients are no numbers.
    """
    run.set_rate(lr)
    for step in range(steps):
        for group in run.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"] * (step + 1) / steps
        _learn(run, step, 1.0)
        _move(run)


def _learn(run: TrainingRun, step: int, progress: float) -> float:
    """The loss of a step's images, with its gradients."""
    run.student.train(not run.frozen)
    recipe = training_recipe(run.student)
    if recipe.backbone_lr == 0 or progress < recipe.frozen_share:
        _hold_statistics(run.student.backbone)
    if run.student.exits is not None:
        run.student.exits.train()
    run.objective.progress, run.objective.step = progress, step
    for reducer in reducers_of(run.student):
        reducer.begin_step(progress)
    loss = _gradients(run, step)
    _check_finite(run, step, loss)
    return loss


def _hold_statistics(backbone: nn.Module) -> None:
    """No optimiser moves the running means of a BatchNorm: every forward in training mode does."""
    for part in backbone.modules():
        if hasattr(part, "running_mean"):
            part.eval()


def _move(run: TrainingRun) -> None:
    run.optimizer.step()
    for reducer in reducers_of(run.student):
        reducer.end_step()
    run.ranks.share_buffers(run.student)


def _gradients(run: TrainingRun, step: int) -> float:
    """The loss of a step; gradients are accumulated over its batches, chunk by chunk."""
    spec, total = run.spec, 0.0
    device = next(run.student.parameters()).device
    run.optimizer.zero_grad(set_to_none=True)
    for part in range(spec.accumulate):
        number = step * spec.accumulate + part
        seed_streams(_stream(spec.seed, number) + run.ranks.rank, device)  # dropout
        whole = run.order.indices(number)
        rows = run.ranks.rows(len(whole))
        indices = [whole[row] for row in rows]
        images, labels = run.data.batch(indices)
        images, labels = run.variation(images, labels, number, rows, len(whole))
        for chosen in chunks(len(indices), run.chunk):
            share = len(indices[chosen]) / (len(whole) * spec.accumulate)
            loss = share * _loss(run, images[chosen], labels, indices, chosen)
            loss.backward()
            total += loss.item()
    return run.ranks.sum_gradients(run.parameters, total)


def _loss(
    run: TrainingRun, images: Tensor, labels: Tensor | None, indices: list[int], chosen: slice
) -> Tensor:
    device = next(run.student.parameters()).device
    own_labels = None if labels is None else labels[chosen].to(device)
    remembered = None if run.spec.varies else indices[chosen]
    loss: Tensor = run.objective(run.student, sent(images, device), own_labels, remembered)
    return loss


def _stream(seed: int, number: int) -> int:
    """A 63-bit seed for one batch."""
    return (seed * 1_000_003 + number * 7_919 + 17) % 2**63


def _check_finite(run: TrainingRun, step: int, loss: float) -> None:
    """Clip the gradients; raise `Diverged` where loss or gradients are not numbers."""
    limit = run.spec.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(run.parameters, limit)
    if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
        what = f"loss {loss:g}" if not math.isfinite(loss) else "its gradient is no number"
        raise diverged(run, step + 1, what)


def check_divergence(run: TrainingRun) -> None:
    """Raise `Diverged` where the last steps' mean loss is far above that of the first ones."""
    since = run.back_offs[-1].step if run.back_offs else 0
    if run.step - since < WINDOW or len(run.losses) < 2 * WINDOW:
        return
    # the very first loss as well, for a rate far too high has done its harm within the window; of
    # losses that take turns, one of each
    first = 2 if any("alternating" in name for name in run.spec.losses) else 1
    start = min(mean(run.losses[:first]), mean(run.losses[:WINDOW]))
    now = mean(run.losses[-WINDOW:])
    if now > 2.0 * start + sum(run.spec.losses.values()):
        raise diverged(run, run.step, f"loss {now:.3g}, at the start {start:.3g}")


def check_worse(run: TrainingRun) -> None:
    """Raise `Diverged` where held-out images say that a probed rate does harm."""
    (_, start), (step, now) = run.checks[0], run.checks[-1]
    if run.probed and not run.finished and now > WORSE * start:
        raise diverged(run, step, f"held-out loss {now:.3g}, at the start {start:.3g}")


def diverged(run: TrainingRun, step: int, what: str) -> Diverged:
    """The error of a step."""
    return Diverged(
        f"fine-tuning diverged at step {step} ({what}); try a lower lr than {run.spec.lr:g}, lr"
        " auto, or a longer warm-up"
    )


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
